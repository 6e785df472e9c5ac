"""The deploy network through torch.export and ONNX, at even and odd sizes, static and dynamic.

Most cases run thin networks (two stages, one residual block), because exporting takes seconds of Python per stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.export import Dim, ExportedProgram

from sapnet.config import PRESETS, ModelConfig
from sapnet.model import DeployNet, SAPNet
from sapnet.model.blocks import ChannelResidualAttention
from sapnet.model.weights import load_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

STATIC_SIZES = [(32, 48), (33, 47)]
DYNAMIC_EXAMPLE = (2, 33, 46)
DYNAMIC_SIZES = [(1, 16, 16), (3, 33, 47), (1, 17, 32), (2, 64, 48)]

Runner = Callable[[torch.Tensor], list[np.ndarray]]


def thin(config: ModelConfig) -> ModelConfig:
    return replace(config, stages=2, dilations=config.dilations[-1:])


def deploy(config: ModelConfig) -> DeployNet:
    """Random weights whose correction is strong enough to show in 8 bits."""
    torch.manual_seed(0)
    network = SAPNet(config).eval().requires_grad_(False)
    for parameter in network.tail.parameters():
        parameter.mul_(4.0)
    return DeployNet(network).eval()


def frames(batch: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)


def export(network: DeployNet, shape: tuple[int, int, int], dynamic: bool) -> ExportedProgram:
    sizes = ({0: Dim.AUTO, 1: Dim.AUTO, 2: Dim.AUTO},) if dynamic else None
    return torch.export.export(network, (frames(*shape),), dynamic_shapes=sizes)


def torch_runner(program: ExportedProgram) -> Runner:
    module = program.module()
    return lambda batch: [output.numpy() for output in module(batch)]


def onnx_runner(program: ExportedProgram) -> Runner:
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return lambda batch: session.run(None, {name: batch.numpy()})


def assert_equals_eager(run: Runner, network: DeployNet, shape: tuple[int, int, int]) -> None:
    batch = frames(*shape)
    expected = network(batch)
    results = run(batch)
    assert len(results) == 2
    for result, exact in zip(results, expected, strict=True):
        assert result.dtype == np.uint8
        assert result.shape == tuple(exact.shape)
        difference = np.abs(result.astype(int) - exact.numpy())
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001
    assert expected[1].any()
    assert (expected[0] != batch).any()


@pytest.mark.parametrize("preset", ["sapnet", "sapnet_separable"])
def test_dynamic_once_for_all_sizes(preset):
    network = deploy(thin(PRESETS[preset]))
    program = export(network, DYNAMIC_EXAMPLE, dynamic=True)
    for run in (torch_runner(program), onnx_runner(program)):
        for shape in DYNAMIC_SIZES:
            assert_equals_eager(run, network, shape)


def test_whole_shipped_network():
    network = DeployNet(load_weights("sapnet_fast")).eval()
    program = export(network, DYNAMIC_EXAMPLE, dynamic=True)
    for run in (torch_runner(program), onnx_runner(program)):
        for shape in DYNAMIC_SIZES[:2]:
            assert_equals_eager(run, network, shape)


def test_mean_of_the_attention_stays_float32_in_a_half_export():
    """What sums up in fp16 overflows at camera sizes, whatever the type that the sum is cast to afterwards."""
    attention = ChannelResidualAttention(4, 2).half().eval()
    program = torch.export.export(attention, (torch.zeros(1, 4, 8, 8, dtype=torch.float16),))
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    (mean,) = (node for node in model.graph.node if node.op_type == "ReduceMean")
    (source,) = (node for node in model.graph.node if mean.input[0] in node.output)
    assert source.op_type == "Cast"
    assert source.attribute[0].i == onnx.TensorProto.FLOAT
