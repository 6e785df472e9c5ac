"""Weights in and out of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from state_dicts import make, official_state

from sapnet.config import PRESETS
from sapnet.errors import CheckpointError
from sapnet.model import SAPNet
from sapnet.model.weights import load_weights, read_metadata, save_weights, shipped_weights


def same_weights(one: SAPNet, other: SAPNet) -> bool:
    other_state = other.state_dict()
    return all(torch.equal(tensor, other_state[key]) for key, tensor in one.state_dict().items())


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(make(), path, {"training": "none, a test"})
    return path


class TestShipped:
    def test_the_vehicles_default_is_in_the_box(self):
        network = load_weights("sapnet_fast")
        assert network.config == PRESETS["sapnet_fast"]
        assert shipped_weights()["sapnet_fast"].name == "sapnet_fast.safetensors"

    def test_every_file_says_its_config_and_how_it_was_trained(self):
        for preset, path in shipped_weights().items():
            metadata = read_metadata(preset)
            assert json.loads(metadata["model_config"]) == PRESETS[preset].to_dict()
            assert metadata["training"]
            assert path.with_name("README.md").is_file()

    def test_preset_without_weights(self):
        with pytest.raises(
            CheckpointError, match=r"preset 'sapnet_separable' has no weights .*have: sapnet, sapnet_fast.* the path"
        ):
            load_weights("sapnet_separable")

    @pytest.mark.parametrize("name", ["sapnet_fats", "", "weights.onnx"])
    def test_unknown_name(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CheckpointError, match=r"sapnet_fast|is a folder"):
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
    @pytest.mark.parametrize("preset", ["sapnet", "sapnet_separable"])
    def test_official_layout(self, preset, prefix, tmp_path):
        network = make(PRESETS[preset])
        torch.save(official_state(network, prefix), tmp_path / "official.pth")
        loaded = load_weights(tmp_path / "official.pth")
        assert loaded.config == PRESETS[preset]
        assert same_weights(loaded, network)

    @pytest.mark.parametrize("preset", PRESETS)
    def test_config_is_deduced_where_the_file_does_not_say_it(self, preset, tmp_path):
        save_file(make(PRESETS[preset]).state_dict(), tmp_path / "bare.safetensors")
        assert load_weights(tmp_path / "bare.safetensors").config == PRESETS[preset]


class TestSave:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_comes_back_equal(self, preset, tmp_path):
        network = make(PRESETS[preset].with_stages(2))
        save_weights(network, tmp_path / "a.safetensors", {"training": "3 steps"})
        loaded = load_weights(tmp_path / "a.safetensors")
        assert loaded.config == network.config
        assert same_weights(loaded, network)
        assert read_metadata(tmp_path / "a.safetensors")["training"] == "3 steps"

    def test_nan_is_not_saved_over_a_good_file(self, saved):
        network = make(seed=1)
        with torch.no_grad():
            network.tail.bias[0] = float("nan")
        with pytest.raises(CheckpointError, match=r"weights\.safetensors: not saved, tensor 'tail\.bias' holds NaN"):
            save_weights(network, saved, {})
        assert same_weights(load_weights(saved), make())
