"""The network as ONNX, and engines from ONNX, built by the real builder of TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from sapnet.backends.base import EngineShape
from sapnet.backends.engines import build_onnx
from sapnet.backends.engines.build_onnx import RTX, TARGETS, TENSORRT, build_engine
from sapnet.errors import UnfitEngineError

onnx = pytest.importorskip("onnx", reason="needs onnx")

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")

SHAPE = EngineShape(32, 48, 2)
Steps = list[tuple[str, float]]


@pytest.fixture(scope="module")
def model() -> bytes:
    """uint8 frames to float32 and back: the smallest network of our kind."""
    text = """<ir_version: 8, opset_import: ["": 18]>
    identity (uint8[batch, height, width, 3] frames) => (uint8[batch, height, width, 3] derained) {
        floats = Cast<to = 1>(frames)
        positive = Relu(floats)
        derained = Cast<to = 2>(positive)
    }"""
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def build(model: bytes, library: str = RTX, target: str = "portable") -> tuple[bytes, Steps]:
    steps: Steps = []
    engine = build_engine(model, SHAPE, library, target, lambda *step: steps.append(step))
    return engine, steps


@rtx
def test_builds_for_every_target_and_reports_progress(model: bytes) -> None:
    engines = {}
    for target in TARGETS:
        engines[target], steps = build(model, target=target)
        assert len(engines[target]) > 1000
        shares = [share for _, share in steps]
        assert shares == sorted(shares)
    assert len(set(engines.values())) == len(engines)


@rtx
def test_progress_is_reported_once_a_second_also_where_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = [0.0], []
    monkeypatch.setattr(build_onnx.time, "monotonic", lambda: now[0])
    monitor = build_onnx._make_monitor(SimpleNamespace(IProgressMonitor=object), lambda *step: steps.append(step))
    monitor.phase_start("whole", None, 2)
    for now[0], step in ((0.1, 0), (1.0, 0), (1.1, 0), (2.0, 0), (2.1, 0)):
        monitor.step_complete("whole", step)
    assert steps == [("building", 0.5)] * 2


def test_tensorrt_is_asked_by_the_interface_that_both_share(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_onnx, "load_library", lambda name: import_module(RTX))
    engine, _ = build(model, TENSORRT, target="")
    assert len(engine) > 1000


@rtx
def test_a_target_that_the_version_lacks_is_refused(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(trt.IBuilderConfig, "set_compute_capability", lambda *args: False)
    with pytest.raises(UnfitEngineError, match="does not build for sm89; choose another target"):
        build(model, target="sm89")


@rtx
def test_what_the_parser_refuses_is_unfit() -> None:
    with pytest.raises(UnfitEngineError, match="tensorrt_rtx cannot read the exported network: "):
        build(b"no model")
