"""The network as ONNX, and engines from ONNX, built by the real builder of TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from sapnet.backends.base import EngineShape
from sapnet.backends.engines import build_onnx
from sapnet.backends.engines.build_onnx import (
    RTX,
    TARGETS,
    TENSORRT,
    build_engine,
    export_onnx,
)
from sapnet.config import PRESETS
from sapnet.errors import UnfitEngineError
from sapnet.model import DeployNet, SAPNet
from sapnet.model.blocks import ChannelResidualAttention
from sapnet.model.deploy import Form, rewrite

onnx = pytest.importorskip("onnx", reason="needs onnx")

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")

SHAPE = EngineShape(32, 48, 2)
Steps = list[tuple[str, float]]


@pytest.fixture(scope="module")
def model() -> bytes:
    """uint8 frames to float32 and back: the smallest network of our kind."""
    helper, types = onnx.helper, onnx.TensorProto
    sizes = ["batch", "height", "width", 3]
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=types.FLOAT),
        helper.make_node("Relu", ["floats"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["derained"], to=types.UINT8),
    ]
    ends = [[helper.make_tensor_value_info(name, types.UINT8, sizes)] for name in ("frames", "derained")]
    graph = helper.make_graph(nodes, "identity", *ends)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


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


@pytest.mark.parametrize("preset", ["sapnet", "sapnet_separable"])
def test_one_export_serves_all_sizes(preset: str) -> None:
    """With one residual block and two stages, because exporting takes seconds of Python for each."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    torch.manual_seed(0)
    network = SAPNet(replace(PRESETS[preset], stages=2, dilations=PRESETS[preset].dilations[-1:])).eval()
    network.requires_grad_(False)
    # A correction that is strong enough to show in 8 bits.
    for parameter in network.tail.parameters():
        parameter.mul_(4.0)
    model = export_onnx(DeployNet(rewrite(network, Form.ENGINE)).eval(), "fp32")
    onnx.checker.check_model(model, full_check=True)
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for shape in [(1, 16, 16, 3), (3, 33, 47, 3), (1, 17, 32, 3), (2, 64, 48, 3)]:
        frames = torch.randint(0, 256, shape, dtype=torch.uint8)
        derained, streaks = expected = DeployNet(network)(frames)
        for result, exact in zip(session.run(None, {"frames": frames.numpy()}), expected, strict=True):
            assert result.dtype == np.uint8
            assert result.shape == tuple(exact.shape)
            difference = np.abs(result.astype(int) - exact.numpy())
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001
        assert streaks.any()
        assert (derained != frames).any()


def test_mean_of_the_attention_stays_float32_in_a_half_export() -> None:
    """What sums up in fp16 overflows at camera sizes, whatever the type that the sum is cast to afterwards."""
    attention = ChannelResidualAttention(4, 2).half().eval()
    program = torch.export.export(attention, (torch.zeros(1, 4, 8, 8, dtype=torch.float16),))
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    (mean,) = (node for node in model.graph.node if node.op_type == "ReduceMean")
    (source,) = (node for node in model.graph.node if mean.input[0] in node.output)
    assert source.op_type == "Cast"
    assert source.attribute[0].i == onnx.TensorProto.FLOAT
