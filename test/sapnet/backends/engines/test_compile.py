"""``sapnet compile`` and what it leaves in the cache: real TensorRT-RTX engines, built without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sapnet.backends.engines.cache import EngineCache, read_entry
from sapnet.cli import main
from sapnet.config import PRESETS
from sapnet.model import SAPNet
from sapnet.model.weights import load_weights, save_weights

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")

Compile = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Compile:
    """Runs ``sapnet compile --json`` and returns what it prints."""

    def run(*arguments: object) -> list[dict[str, Any]]:
        assert main(["compile", "--json", *map(str, arguments)]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which what was exported by one test is found by the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of every preset, random ones: what is built is their network."""
    folder = tmp_path_factory.mktemp("weights")
    for preset, config in PRESETS.items():
        save_weights(SAPNet(config), folder / f"{preset}.safetensors", {})
    return folder


# A Latin square: each preset and each precision once.
@rtx
@pytest.mark.parametrize(
    ("preset", "precision"), [("sapnet", "fp16"), ("sapnet_separable", "bf16"), ("sapnet_fast", "fp32")]
)
def test_every_preset_and_every_precision_builds(
    preset: str, precision: str, weights: Path, folder: Path, run: Compile
) -> None:
    network = ["--weights", weights / f"{preset}.safetensors", "--precision", precision, "--stages", 2]
    *progress, built = run("--ahead-of-time", "--shape", "90x160", "--batch", 4, "--cache-dir", folder, *network)
    shares = [event["share"] for event in progress]
    assert shares == sorted(shares)
    assert {event["step"] for event in progress} >= {"exporting the network", "building"}
    entry = read_entry(built["engine"])
    assert len(entry.data) == built["bytes"] > 100_000
    expected = {"shape": [90, 160, 4], "precision": precision, "target": "portable", "stages": 2, "flavour": "rtx"}
    assert expected.items() <= entry.key.items()


@rtx
def test_the_shipped_network_builds_for_every_target_from_one_export(folder: Path, run: Compile) -> None:
    where = ["--ahead-of-time", "--shape", "90x160", "--cache-dir", folder]
    targets = ["portable", "sm75", "sm80", "sm86", "sm89", "sm120", "sm121"]
    engines = {target: run(*where, "--target", target)[-1] for target in targets}
    assert len({engine["engine"] for engine in engines.values()}) == len(targets)
    fast = load_weights("sapnet_fast").config.stages
    entries = EngineCache(folder).entries()
    ours = [entry for entry in entries if entry.key["stages"] == fast]
    assert sorted(entry.key.get("target", "") for entry in ours) == sorted(["", *targets])
    # Found, not built again.
    (again,) = run(*where, "--target", "sm89")
    assert again == engines["sm89"]


@rtx
def test_a_file_for_another_machine(folder: Path, tmp_path: Path, run: Compile) -> None:
    file = tmp_path / "carried.engine"
    where = ["--ahead-of-time", "--shape", "90x160", "--cache-dir", folder]
    *_, built = run(*where, "-o", file)
    *_, cached = run(*where)
    assert built["engine"] == str(file)
    assert read_entry(file).data == read_entry(cached["engine"]).data


@rtx
def test_what_is_there_can_be_listed_and_cleared(
    folder: Path, run: Compile, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--ahead-of-time", "--shape", "90x160", "--cache-dir", folder)
    assert main(["compile", "--list", "--cache-dir", str(folder)]) == 0
    table = capsys.readouterr().out
    assert "90x160" in table
    assert "portable" in table
    assert main(["compile", "--list", "--json", "--cache-dir", str(folder)]) == 0
    listed = json.loads(capsys.readouterr().out)["entries"]
    (removed,) = run("--clear", "--cache-dir", folder)
    assert removed["removed"] == len(listed) > 1
    assert not EngineCache(folder).entries()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ahead-of-time", "--shape", "720x1280", "--target", "sm87"], "got target 'sm87', expected portable, sm75"),
        (
            ["--ahead-of-time", "--shape", "720x1280", "--target", "sm75", "--precision", "bf16"],
            "no bf16 arithmetic; use fp16 or fp32",
        ),
        (["--shape", "720x1280", "-o", "x.engine"], "-o writes one engine that is built --ahead-of-time"),
        (["--shape", "720"], "expected height x width such as 720x1280, got '720'"),
        ([], "one of the arguments --shape --list --clear"),
        (["--ahead-of-time", "--shape", "720x1280", "--weights", "nothing.pth"], "no such file"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "--cache-dir", str(tmp_path / "cache"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "cache").exists()
