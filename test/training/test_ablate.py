"""What a term of the loss is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.ablate import main


def arguments(photographs: Path, pairs: Path, output: Path) -> list[str]:
    data = {
        "clean": str(photographs),
        "validation": [str(pairs)],
        "crop": 32,
        "final_crop": 32,
        "workers": 0,
        "batch": 1,
    }
    config = output / "config.yaml"
    config.write_text(json.dumps({"data": data, "optimizer": {"steps": 1, "warmup": 0}, "precision": "32-true"}))
    return ["--config", str(config), "--output", str(output / "runs"), "--seeds", "0", "1"]


def test_every_term_is_tried_with_every_seed(photographs: Path, pairs: Path, tmp_path: Path) -> None:
    given = arguments(photographs, pairs, tmp_path)
    assert main([*given, "--terms", "edge=0.5", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {name: len(values) for name, values in figures.items()} == {"none": 2, "edge": 2}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        f"{name}_seed{seed}" for name in ("edge", "none") for seed in (0, 1)
    ]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("weights.safetensors")}
    assert main([*given, "--terms", "edge=0.5", "--json", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == figures
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())


@pytest.mark.parametrize(("term", "message"), [("beauty=1", "unknown term 'beauty'"), ("edge", "expected NAME=WEIGHT")])
def test_wrong_terms_are_named(
    term: str, message: str, photographs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(photographs, pairs, tmp_path), "--terms", term]) == 2
    assert message in capsys.readouterr().err
