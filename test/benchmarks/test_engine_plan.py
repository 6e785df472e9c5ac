"""The engine plan that TensorRT-RTX's builder logs without a GPU: an export that grows is seen here."""

from __future__ import annotations

import pytest

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
pytest.importorskip("onnxscript", reason="needs onnxscript")

from benchmarks.engine_plan import Kernel, bound_ms, make_plan, read_plan
from sapnet.backends.base import EngineShape

CONVOLUTION = (
    "Name: conv, part 2, LayerType: correlation, "
    "Inputs: [ { Name: a, Dimensions: [1,4,32,48], Strides: [6144,1,192,4], Datatype: Half, Format: (NHWC) x }], "
    "Constants: [ { Name: w, Dimensions: [8,4,3,3], Datatype: Half, Format: y }, "
    "{ Name: s, Dimensions: [], Datatype: Float, Format: z }], "
    "Outputs: [ { Name: b, Dimensions: [1,8,32,48], Datatype: Half, Format: (NHWC) x }], TacticName: t, StreamId: 0"
)
CAST = (
    "Name: cast, LayerType: kgen, Inputs: [ { Name: b, Dimensions: [1,32,48,3], Datatype: Half, Format: x }], "
    "Constants: [], Outputs: [ { Name: c, Dimensions: [1,32,48,3], Datatype: UInt8, Format: x }], TacticName: t"
)


def test_kernels_are_read_with_their_bytes_and_arithmetic() -> None:
    pixels = 32 * 48
    convolution, cast = read_plan(f"{CONVOLUTION}\n{CAST}\n\nI/O Tensors:\n Name: frames")
    assert convolution == Kernel("conv, part 2", (4 * pixels + 288 + 8 * pixels) * 2 + 4, 2 * 288 * pixels)
    assert cast == Kernel("cast", 3 * pixels * 3, 0)
    with pytest.raises(ValueError, match="got a kernel as 'Kernel 1'"):
        read_plan("Kernel 1")


def test_a_tensor_that_is_listed_for_each_of_its_slices_is_read_once() -> None:
    tensor = "{ Name: b, Dimensions: [1,32,48,3], Datatype: Half, Format: x }"
    (kernel,) = read_plan(CAST.replace(tensor, f"{tensor}, {tensor}"))
    assert kernel.moved == 3 * 32 * 48 * 3


def test_the_bound_takes_the_longer_of_arithmetic_and_traffic_of_each_kernel() -> None:
    kernels = [Kernel("compute", 1_000, 10**12), Kernel("memory", 10**9, 1_000)]
    assert bound_ms(kernels, tflops=100.0, gb_per_s=500.0) == pytest.approx(10.0 + 2.0)


# Few stages, as the export's time grows with them; the second one is the first with a state.
@pytest.mark.parametrize(
    ("preset", "stages", "kernels", "moved_gb"), [("sapnet_fast", 2, 152, 1.57), ("sapnet", 1, 75, 2.67)]
)
@pytest.mark.timeout(1200)
def test_neither_kernels_nor_traffic_grow(preset: str, stages: int, kernels: int, moved_gb: float) -> None:
    plan = make_plan(preset, EngineShape(720, 1280), stages)
    assert len(plan) == pytest.approx(kernels, rel=0.05)
    assert sum(kernel.moved for kernel in plan) / 1e9 == pytest.approx(moved_gb, rel=0.05)
