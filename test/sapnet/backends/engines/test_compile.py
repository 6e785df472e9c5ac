"""``sapnet compile`` and what it leaves in the cache: real TensorRT-RTX engines, built without a GPU."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sapnet import derainer
from sapnet.backends.base import EngineShape
from sapnet.backends.engines.build_onnx import export_onnx
from sapnet.backends.engines.cache import EngineCache, read_entry
from sapnet.backends.engines.tensorrt import REQUIRED_DB, rainy_frame
from sapnet.backends.fake import FakeBackend
from sapnet.cli import main
from sapnet.config import PRESETS, ModelConfig
from sapnet.images.frame import psnr
from sapnet.model.deploy import DeployNet, Form, load_deploy_network
from sapnet.model.sapnet import SAPNet
from sapnet.model.weights import save_weights

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")

ROOT = Path(__file__).resolve().parents[4]


def run(*arguments: object) -> list[dict[str, Any]]:
    """What ``sapnet compile --json`` prints."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(["compile", "--json", *map(str, arguments)]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def built_ahead(folder: Path, *network: object) -> list[dict[str, Any]]:
    return run("--ahead-of-time", "--shape", "90x160", "--batch", 4, "--cache-dir", folder, *network)


def exported(folder: Path) -> bytes:
    """The one ONNX model in a cache."""
    (path,) = (entry.path for entry in EngineCache(folder).entries() if entry.key["kind"] == "onnx")
    return read_entry(path).data


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A cache with the shipped network in fp16, as on a vehicle, and what building it printed.

    Of two stages: the export takes longer with each, and the second one is the first with a state.
    """
    folder = tmp_path_factory.mktemp("shipped") / "cache"
    return folder, built_ahead(folder, "--precision", "fp16", "--stages", 2)


# With the shipped network a Latin square: each kind of network and each precision once.
@rtx
@pytest.mark.parametrize(
    ("preset", "precision", "target"),
    [("sapnet_fast", "fp32", "sm75"), ("sapnet_separable", "bf16", "sm120"), ("sapnet", "fp16", "sm89")],
)
def test_every_kind_of_network_and_every_precision_builds(
    preset: str, precision: str, target: str, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    weights, folder = tmp_path / "weights.safetensors", tmp_path / "cache"
    # One residual block and two stages: each takes seconds, and is like the others.
    small = {"dilations": PRESETS[preset].dilations[-1:], "stages": 2}
    coarse = PRESETS[preset].coarse and ModelConfig(downscale=2, **small)
    torch.manual_seed(0)
    save_weights(SAPNet(replace(PRESETS[preset], coarse=coarse, **small)), weights, {})
    *_, built = built_ahead(folder, "--weights", weights, "--precision", precision, "--target", target)
    entry = read_entry(built["engine"])
    assert len(entry.data) == built["bytes"] > 20_000
    expected = {"shape": [90, 160, 4], "precision": precision, "target": target, "stages": 2, "library": "tensorrt_rtx"}
    assert expected.items() <= entry.key.items()
    # Sums over a frame are in float32: in fp16 they overflow at camera sizes, whatever they are cast to afterwards.
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(exported(folder))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    summed = [node.input[0] for node in graph.node if node.op_type in ("ReduceMean", "ReduceSum")]
    assert summed
    assert {types[name] for name in summed} == {onnx.TensorProto.FLOAT}


def assert_exact(model: bytes, network: DeployNet) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for shape in [(1, 16, 16, 3), (3, 33, 47, 3)]:
        frames = torch.randint(0, 256, shape, dtype=torch.uint8)
        for result, exact in zip(session.run(None, {"frames": frames.numpy()}), network(frames), strict=True):
            difference = np.abs(result.astype(int) - exact.numpy())
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_exported_for_any_size_and_batch(preset: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx")
    torch.manual_seed(0)
    save_weights(SAPNet(PRESETS[preset].with_stages(2)), tmp_path / "weights.safetensors", {})
    network = load_deploy_network(str(tmp_path / "weights.safetensors"), 2, Form.ENGINE)
    assert_exact(export_onnx(network, "fp32"), network)


@rtx
def test_an_engine_is_built_once_and_carried_in_a_file(
    shipped: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, (*progress, built) = shipped
    shares = [event["share"] for event in progress]
    assert shares == sorted(shares)
    assert {event["step"] for event in progress} >= {"exporting the network", "building"}
    # Found, not built again, and written to a file for another machine.
    carried_to = tmp_path / "carried.engine"
    (carried,) = built_ahead(folder, "--precision", "fp16", "--stages", 2, "-o", carried_to)
    assert carried == {**built, "engine": str(carried_to)}
    assert read_entry(carried_to).data == read_entry(built["engine"]).data
    kinds = {str(entry.key["kind"]): entry for entry in EngineCache(folder).entries()}
    assert set(kinds) == {"engine", "onnx"}
    assert (kinds["engine"].key["target"], kinds["engine"].key["stages"]) == ("portable", 2)


@rtx
def test_the_export_of_the_shipped_network_gives_what_it_gives_and_moves_no_more_than_before(
    shipped: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other presets export the same modules."""
    model = exported(shipped[0])
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    frames = np.stack([rainy_frame(EngineShape(33, 47), seed) for seed in range(3)])
    results = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"frames": frames})
    for result, exact in zip(results, load_deploy_network("sapnet_fast", 2)(torch.from_numpy(frames)), strict=True):
        assert psnr(result, exact.numpy()) >= REQUIRED_DB["fp16"]
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from engines import make_plan

    plan = make_plan(model, EngineShape(720, 1280))
    assert len(plan) == pytest.approx(152, rel=0.05)
    assert sum(kernel.bytes for kernel in plan) / 1e9 == pytest.approx(1.57, rel=0.05)
    assert sum(kernel.flop for kernel in plan) / 1e12 == pytest.approx(0.140, rel=0.05)


def test_what_is_built_here_takes_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where frames are run in smaller batches than a node's."""
    fake = {"build_s": 0.05}
    monkeypatch.setattr(derainer, "create_backend", lambda name, spec: FakeBackend(replace(spec, fake=fake)))
    *_, built = run("--shape", "48x64", "96x64", "--batch", 12, "--cache-dir", tmp_path)
    assert (built["shape"], built["ready"]) == ("96x64, batch 1 to 12", True)
    assert [entry.key["shape"] for entry in EngineCache(tmp_path).entries()] == [[96, 64, 12], [48, 64, 12]]


def test_what_is_there_can_be_listed_and_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = EngineCache(tmp_path)
    asked = {"shape": [90, 160, 1], "precision": "fp32", "target": "portable"}
    engine = cache.store({"kind": "engine", **asked}, b"engine", {"seconds": 1.5})
    cache.store({"kind": "proof", "engine": engine.sha256}, b"", {"agreement_db": 61.5})
    cache.store({"kind": "verdict", **asked}, b"", {"reason": "agrees by 3 dB only"})
    (tmp_path / f"engine-{'0' * 64}.entry").write_bytes(b"rubbish")
    (tmp_path / "somebody's file").write_text("")
    where = ["compile", "--cache-dir", str(tmp_path)]
    assert main([*where, "--list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["engine"].split()[1:6] == ["90x160,", "1", "fp32", "portable", "61.5"]
    assert "refused" in rows["verdict"]
    assert main([*where, "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["key"]["kind"] for entry in listed} == {"engine", "proof", "verdict"}
    assert run("--clear", "--cache-dir", tmp_path) == [{"removed": 4}]
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's file"]
