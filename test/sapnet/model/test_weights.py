"""Weights in and out of files, and what is said about files that are not, or not quite, weights of SAPNet."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from state_dicts import make, official_state

from sapnet.config import PRESETS, ModelConfig
from sapnet.errors import CheckpointError
from sapnet.model.sapnet import SAPNet
from sapnet.model.weights import load_weights, read_metadata, save_weights, shipped_weights


def same_weights(one: SAPNet, other: SAPNet) -> bool:
    other_state = other.state_dict()
    return all(torch.equal(tensor, other_state[key]) for key, tensor in one.state_dict().items())


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(make(), path, {"training": "none, a test"})
    return path


@pytest.fixture
def official(tmp_path) -> Path:
    path = tmp_path / "official.pth"
    torch.save(official_state(make(PRESETS["sapnet_wacv2022"])), path)
    return path


class TestShipped:
    def test_the_vehicles_default_is_in_the_box(self):
        assert load_weights("sapnet_fast").config == PRESETS["sapnet_fast"]
        for preset, path in shipped_weights().items():
            metadata = read_metadata(preset)
            assert ModelConfig(**json.loads(metadata["model_config"])) == PRESETS[preset]
            assert metadata["training"]
            assert path.with_name("README.md").is_file()

    @pytest.mark.parametrize("name", ["sapnet_separable", "sapnet_fats", "", "weights.onnx"])
    def test_unknown_name(self, name):
        with pytest.raises(CheckpointError, match=r"have: sapnet, sapnet_fast.*give the path of a file"):
            load_weights(name)


class TestLoad:
    def test_is_ready_to_run(self, saved):
        network = load_weights(saved)
        assert not network.training
        for parameter in network.parameters():
            assert (parameter.dtype, parameter.device.type) == (torch.float32, "cpu")
            assert not parameter.requires_grad
            assert parameter.is_contiguous()
        assert network(torch.rand(1, 3, 16, 16)).shape == (3, 1, 3, 16, 16)

    @pytest.mark.parametrize("prefix", ["module.", ""])
    @pytest.mark.parametrize("preset", ["sapnet_wacv2022", "sapnet_separable"])
    def test_official_layout(self, preset, prefix, tmp_path):
        network = make(PRESETS[preset])
        torch.save(official_state(network, prefix), tmp_path / "official.pth")
        loaded = load_weights(tmp_path / "official.pth")
        assert loaded.config == PRESETS[preset]
        assert same_weights(loaded, network)


class TestSave:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_comes_back_equal(self, preset, tmp_path):
        network, path = make(PRESETS[preset].with_stages(2)), tmp_path / "a.safetensors"
        save_weights(network, path, {"training": "3 steps"})
        loaded = load_weights(path)
        assert loaded.config == network.config
        assert same_weights(loaded, network)
        assert read_metadata(path)["training"] == "3 steps"
        # The config is deduced where the file does not say it.
        save_file(network.state_dict(), path)
        assert load_weights(path).config == PRESETS[preset]

    def test_nan_is_not_saved_over_a_good_file(self, saved):
        network = make(seed=1)
        with torch.no_grad():
            network.tail.bias[0] = float("nan")
        with pytest.raises(CheckpointError, match=r"weights\.safetensors: not saved, tensor 'tail\.bias' holds NaN"):
            save_weights(network, saved, {})
        assert same_weights(load_weights(saved), make())


def refuses(path: Path, message: str) -> None:
    """Each error names the file."""
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["empty.safetensors", "empty.pth"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>404</html>\n" * 100, b"\x80\x02}q\x00."])
def test_no_weights_at_all(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    refuses(tmp_path / name, r"cannot be read as|Missing key")


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.5, 0.99999])
@pytest.mark.parametrize("kind", ["saved", "official"])
def test_truncated(kind, share, request):
    path = request.getfixturevalue(kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refuses(path, r"cannot be read as \.\w+ weights .*copy the file again")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_not_run(zipped, tmp_path):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(proof),)

    torch.save({"conv0.0.weight": Evil()}, path, _use_new_zipfile_serialization=zipped)
    refuses(path, "cannot be read as .*save its state dict alone")
    assert not proof.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], torch.zeros(3), 5])
def test_not_a_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    refuses(tmp_path / "a.pth", "holds a .*expected a state dict")


@pytest.mark.parametrize(
    ("suffix", "tensor", "value", "message"),
    [
        (".pth", "module.conv_g.0.weight", None, 'Missing key(s) in state_dict: "lstm.gates.weight"'),
        (".pth", "module.conv_g.0.bias", torch.zeros(()), "zero-dimensional tensor"),
        (".pth", "module.conv.0.bias", torch.tensor([0, torch.nan, 0]), "tensor 'tail.bias' holds NaN or infinite"),
        (".safetensors", "tail.bias", torch.tensor([0, 0, -torch.inf]), "tensor 'tail.bias' holds NaN or infinite"),
        (".safetensors", "head.weight", torch.zeros(32, 6, 3, 1), "size mismatch for head."),
        (".safetensors", "more", torch.zeros(1), 'Unexpected key(s) in state_dict: "more"'),
    ],
)
def test_wrong_tensors(suffix, tensor, value, message, tmp_path):
    network, path = make(PRESETS["sapnet"]), tmp_path / f"weights{suffix}"
    state = {**(official_state(network) if suffix == ".pth" else network.state_dict()), tensor: value}
    if value is None:
        del state[tensor]
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    refuses(path, re.escape(message))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ('{"stages": 0}', "stages must be a whole number from 1 to 4096, got 0"),
        ('{"dilations": 4}', "no ModelConfig"),
        ('{"stage": 6}', "is no ModelConfig .*'stage'"),
        ('{"dilations": [1, 2], "channels": 16}', "size mismatch for head.weight"),
    ],
)
def test_wrong_config_in_the_metadata(text, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(make().state_dict(), path, {"model_config": text})
    refuses(path, message)
