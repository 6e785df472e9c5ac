"""What is said about files that are not, or not quite, weights of SAPNet."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from state_dicts import make, official_state

from sapnet.config import PRESETS
from sapnet.errors import CheckpointError
from sapnet.model.weights import load_weights, save_weights


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(make(), path, {"training": "none, a test"})
    return path


@pytest.fixture
def official(tmp_path) -> Path:
    path = tmp_path / "official.pth"
    torch.save(official_state(make(PRESETS["sapnet"])), path)
    return path


class TestDamagedFiles:
    """Each error names the file."""

    def refuses(self, path: Path, message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            load_weights(path)
        assert path.name in str(caught.value)

    @pytest.mark.parametrize("name", ["empty.safetensors", "empty.pth"])
    @pytest.mark.parametrize("content", [b"", b"\n", b"PK\x03\x04", b"<html>404</html>\n" * 100, b"\x80\x02}q\x00."])
    def test_no_weights_at_all(self, name, content, tmp_path):
        (tmp_path / name).write_bytes(content)
        self.refuses(tmp_path / name, r"cannot be read as|is missing")

    @pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999, 0.99999])
    @pytest.mark.parametrize("kind", ["saved", "official"])
    def test_truncated(self, kind, share, request):
        path = request.getfixturevalue(kind)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        self.refuses(path, r"cannot be read as \.\w+ weights .*copy the file again")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_pickle_with_code_is_not_run(self, zipped, tmp_path):
        path, proof = tmp_path / "evil.pth", tmp_path / "proof"

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(proof),)

        if zipped:
            torch.save({"module.conv0.0.weight": torch.zeros(1)}, path)
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, pickle.dumps(Evil(), 2) if name.endswith("data.pkl") else data)
            path.write_bytes(buffer.getvalue())
        else:
            path.write_bytes(pickle.dumps(Evil(), 2))
        self.refuses(path, "cannot be read as .*save its state dict alone")
        assert not proof.exists()

    @pytest.mark.parametrize("content", [[torch.zeros(1)], torch.zeros(3), 5])
    def test_not_a_state_dict(self, content, tmp_path):
        torch.save(content, tmp_path / "a.pth")
        self.refuses(tmp_path / "a.pth", "holds a .*expected a state dict")


class TestWrongTensors:
    """Each error names the file and the first wrong tensor by the file's own name for it."""

    def refuses(self, change, message, tmp_path, official=False):
        network = make(PRESETS["sapnet"])
        state = official_state(network) if official else network.state_dict()
        change(state)
        if official:
            path = tmp_path / "weights.pth"
            torch.save(state, path)
        else:
            path = tmp_path / "weights.safetensors"
            save_file(state, path)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_weights(path)
        assert str(caught.value).startswith(f"{path}: ")

    def test_missing_gate_of_the_official_file(self, tmp_path):
        self.refuses(
            lambda state: state.pop("module.conv_g.0.weight"),
            r"tensor 'module\.conv_g\.0\.weight' is missing, expected float32 \(32, 64, 3, 3\)",
            tmp_path,
            official=True,
        )

    @pytest.mark.parametrize("shape", [(32, 6, 3, 1), (31, 6, 3, 3), (32, 6), ()])
    def test_shape(self, shape, tmp_path):
        def reshape(state):
            state["head.weight"] = torch.zeros(shape)

        got = re.escape(str(tuple(shape)))
        self.refuses(reshape, rf"'head\.weight' is float32 {got}, expected float32 \(32, 6, 3, 3\)", tmp_path)

    @pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
    @pytest.mark.parametrize("official", [False, True])
    def test_not_finite(self, value, official, tmp_path):
        name = "module.conv.0.weight" if official else "tail.weight"

        def poison(state):
            state[name][1, 2, 0, 0] = float(value)

        self.refuses(poison, rf"'{re.escape(name)}' holds NaN or infinite values", tmp_path, official)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "no ModelConfig"),
        ('{"stages": 0}', "stages must be a whole number from 1 to 4096, got 0"),
        ('{"stage": 4}', "unknown model setting 'stage'"),
        ('{"dilations": 4}', "no ModelConfig"),
        ('{"channels": 16}', r"'head\.weight' is float32 \(8, 24, 3, 3\), expected float32 \(16, 6, 3, 3\)"),
        ('{"channels": 1e3}', r"channels must be .* got 1000\.0"),
        (f'{{"channels": {16 * 10**20}}}', "channels must be .* from 1 to 4096"),
    ],
)
def test_wrong_config_in_the_metadata(text, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(make().state_dict(), path, {"model_config": text})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ")
