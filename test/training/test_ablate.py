"""What a term of the loss is worth."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from training.ablate import main
from training.module import DerainingModule


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


def test_every_term_is_tried_with_every_seed(
    photographs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(photographs, pairs, tmp_path)
    given += ["--terms", "distill=0.5", "--loss.teacher", "sapnet_fast", "--json", str(tmp_path / "figures.json")]
    runs = tmp_path / "runs"

    def figures() -> dict[str, list[float]]:
        assert main(given) == 0
        found: dict[str, list[float]] = json.loads((tmp_path / "figures.json").read_text())
        return found

    first = figures()
    assert {name: len(values) for name, values in first.items()} == {"none": 2, "distill": 2}
    assert sorted(path.name for path in runs.iterdir()) == [
        f"{name}_seed{seed}" for name in ("distill_0.5", "none") for seed in (0, 1)
    ]
    written = {path: path.stat().st_mtime_ns for path in runs.rglob("weights.safetensors")}
    # Killed after its checkpoint, before its weights.
    killed = runs / "none_seed1" / "weights.safetensors"
    killed.unlink()
    assert figures() == first
    assert [path for path, when in written.items() if path.stat().st_mtime_ns != when] == [killed]
    assert main([*given, "--data.batch", "2"]) == 2
    assert "none_seed0 holds a run with other settings" in capsys.readouterr().err


def test_a_run_that_is_stopped_stops_all(
    photographs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*arguments(photographs, pairs, tmp_path), "--terms", "edge=0.5", "--optimizer.steps", "2"]
    begun = []

    def interrupted(module: DerainingModule, *_: object) -> None:
        begun.append(module.config.output)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(DerainingModule, "on_train_batch_start", interrupted)
        assert main(given) == 2
    assert begun == [str(tmp_path / "runs" / "none_seed0")]
    assert "the same command goes on" in capsys.readouterr().err
    assert main([*given, "--seeds", "0"]) == 0


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("beauty=1", "unknown term 'beauty'"),
        ("first_stage=1", "unknown term 'first_stage'"),
        ("edge", "expected NAME=WEIGHT"),
        ("distill=1", "needs loss.teacher"),
    ],
)
def test_wrong_terms_are_named(
    term: str, message: str, photographs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(photographs, pairs, tmp_path), "--terms", term]) == 2
    assert message in capsys.readouterr().err
