"""``sapnet compile`` and what it leaves in the cache: real TensorRT-RTX engines, built without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sapnet.backends.engines.cache import EngineCache, read_entry
from sapnet.cli import main
from sapnet.config import PRESETS
from sapnet.model import SAPNet
from sapnet.model.deploy import load_deploy_network
from sapnet.model.weights import save_weights

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")

Compile = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Compile:
    """Runs ``sapnet compile --json`` and returns what it prints."""

    def run(*arguments: object) -> list[dict[str, Any]]:
        assert main(["compile", "--json", *map(str, arguments)]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


# With the shipped network in fp32, a Latin square: each kind of network and each precision once.
@rtx
@pytest.mark.parametrize(
    ("preset", "precision", "target"), [("sapnet", "fp16", "sm75"), ("sapnet_separable", "bf16", "sm120")]
)
def test_every_kind_of_network_and_every_precision_builds(
    preset: str, precision: str, target: str, tmp_path: Path, run: Compile
) -> None:
    weights = tmp_path / "weights.safetensors"
    config = PRESETS[preset]
    # One residual block and two stages: each takes seconds, and is like the others.
    save_weights(SAPNet(replace(config, dilations=config.dilations[-1:], stages=2)), weights, {})
    network = ["--weights", weights, "--precision", precision, "--target", target]
    *_, built = run("--ahead-of-time", "--shape", "90x160", "--batch", 4, "--cache-dir", tmp_path / "cache", *network)
    entry = read_entry(built["engine"])
    assert len(entry.data) == built["bytes"] > 20_000
    expected = {"shape": [90, 160, 4], "precision": precision, "target": target, "stages": 2, "library": "tensorrt_rtx"}
    assert expected.items() <= entry.key.items()


@rtx
def test_the_shipped_network(tmp_path: Path, run: Compile) -> None:
    folder = tmp_path / "cache"
    # Of two stages: each takes a minute, and all but the first are alike.
    where = ["--ahead-of-time", "--shape", "90x160", "--precision", "fp32", "--stages", 2, "--cache-dir", folder]
    *progress, built = run(*where)
    shares = [event["share"] for event in progress]
    assert shares == sorted(shares)
    assert {event["step"] for event in progress} >= {"exporting the network", "building"}
    # Found, not built again, and written to a file for another machine.
    (carried,) = run(*where, "-o", tmp_path / "carried.engine")
    assert carried == {**built, "engine": str(tmp_path / "carried.engine")}
    assert read_entry(carried["engine"]).data == read_entry(built["engine"]).data

    kinds = {str(entry.key["kind"]): entry for entry in EngineCache(folder).entries()}
    assert set(kinds) == {"engine", "onnx"}
    assert kinds["engine"].key["target"] == "portable"
    assert kinds["engine"].key["stages"] == 2
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    session = runtime.InferenceSession(read_entry(kinds["onnx"].path).data, providers=["CPUExecutionProvider"])
    for shape in [(1, 16, 16, 3), (3, 33, 47, 3)]:
        frames = torch.randint(0, 256, shape, dtype=torch.uint8)
        expected = load_deploy_network("sapnet_fast", 2)(frames)
        for result, exact in zip(session.run(None, {"frames": frames.numpy()}), expected, strict=True):
            difference = np.abs(result.astype(int) - exact.numpy())
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001


def test_what_is_there_can_be_listed_and_cleared(
    tmp_path: Path, run: Compile, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = EngineCache(tmp_path)
    asked = {"shape": [90, 160, 1], "precision": "fp32", "target": "portable"}
    engine = cache.store({"kind": "engine", **asked}, b"engine", {"seconds": 1.5})
    cache.store({"kind": "proof", "engine": engine.sha256}, b"", {"agreement_db": 61.5})
    cache.store({"kind": "verdict", **asked}, b"", {"reason": "agrees by 3 dB only"})
    where = ["compile", "--cache-dir", str(tmp_path)]
    assert main([*where, "--list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["engine"].split()[1:6] == ["90x160,", "1", "fp32", "portable", "61.5"]
    assert "refused" in rows["verdict"]
    assert main([*where, "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["key"]["kind"] for entry in listed} == {"engine", "proof", "verdict"}
    assert run("--clear", "--cache-dir", tmp_path) == [{"removed": 3}]
    assert not cache.entries()


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
