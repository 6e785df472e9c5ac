"""Weights between two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sapnet.config import PRESETS
from sapnet.model.sapnet import SAPNet
from sapnet.model.weights import load_weights, read_metadata, save_weights
from training.interpolate import main


def weights(path: Path, preset: str, seed: int) -> Path:
    torch.manual_seed(seed)
    save_weights(SAPNet(PRESETS[preset]), path, {"data": f"seed {seed}"})
    return path


def test_they_lie_where_the_share_says(tmp_path: Path) -> None:
    ends = [weights(tmp_path / f"{seed}.safetensors", "sapnet_fast", seed) for seed in (0, 1)]
    output = tmp_path / "between.safetensors"
    assert main([*map(str, ends), "--share", "0.25", "-o", str(output)]) == 0
    first, second, between = (load_weights(path).state_dict() for path in (*ends, output))
    for name, value in between.items():
        torch.testing.assert_close(value, first[name] + 0.25 * (second[name] - first[name]))
    metadata = read_metadata(output)
    assert metadata["data"] == "seed 1"
    assert json.loads(metadata["interpolated"])["share"] == 0.25


@pytest.mark.parametrize(
    ("second", "share", "said"),
    [("sapnet_fast", "1.5", "expected 0 to 1"), ("sapnet", "0.5", "different networks"), ("", "0.5", "no such file")],
)
def test_what_cannot_be_mixed_is_said(
    second: str, share: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = weights(tmp_path / "first.safetensors", "sapnet_fast", 0)
    other = weights(tmp_path / "other.safetensors", second, 1) if second else tmp_path / "missing.safetensors"
    output = tmp_path / "between.safetensors"
    assert main([str(first), str(other), "--share", share, "-o", str(output)]) == 2
    assert said in capsys.readouterr().err
    assert not output.exists()
