"""The kernels of an engine and a bound on its time, calculated without a GPU: ``engines.py plan`` prints them.

TensorRT-RTX's builder logs every kernel with the tensors that it reads and writes. Bytes moved are the sizes of all of
them: what a cache holds from one kernel to the next is counted too. Arithmetic is that of the convolutions.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tables import print_head, print_row

from sapnet.backends.base import EngineShape
from sapnet.backends.engines.build_onnx import PORTABLE, RTX, build_engine, export_onnx
from sapnet.model.deploy import Form, load_deploy_network

_BYTES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Half": 2, "BFloat16": 2, "Float": 4, "Int32": 4, "Int64": 8}
_KERNEL = re.compile(r"^Name: (.*?), LayerType: (\w+), Inputs: (.*?), Constants: (.*?), Outputs: (.*?), TacticName:")
_CONVOLUTIONS = ("correlation", "runtime_fusion")  # alone, and with what follows it
_TENSOR = re.compile(r"Name: ([^,]+), Dimensions: \[([\d,]*)\].*?Datatype: (\w+)")
# Dense fp16 with sums in float32, in TFLOP/s, and memory bandwidth, in GB/s, as published for these GPUs. Derived from
# the published figure: the RTX 5090's as a quarter of its 838 TFLOPS (sparse fp16 with sums in fp16: GeForce halves the
# rate for sums in float32), Orin's as a quarter of its GPU's 170 TOPS (sparse int8), Thor's as a quarter of its 1035
# TFLOPS (sparse fp8).
GPUS = {
    "RTX 4090": (165.2, 1008.0),
    "RTX 5090": (209.5, 1792.0),
    "AGX Orin 64 GB": (42.5, 204.8),
    "AGX Thor T5000": (258.8, 273.0),
    "H100 SXM": (989.4, 3350.0),
}


@dataclass(frozen=True)
class Kernel:
    """A kernel of an engine. moved: bytes that it reads and writes. flop: of its convolution, 0 if it has none."""

    name: str
    moved: int
    flop: int


class _Plan(logging.Handler):
    """Keeps the list of kernels that the builder logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message if it is the list."""
        _, found, kernels = record.getMessage().partition("TensorRT: Layers:\n")
        self.text += kernels if found else ""


def make_plan(weights: str, shape: EngineShape, stages: int = 0) -> list[Kernel]:
    """The kernels of the fp16 engine of a preset's or file's network; stages: 0 for its own. Raises SapnetError."""
    network = load_deploy_network(weights, stages, Form.ENGINE)
    model = export_onnx(network, "fp16")
    log, plan = logging.getLogger("sapnet"), _Plan()
    level = log.level
    log.addHandler(plan)
    log.setLevel(logging.DEBUG)
    try:
        build_engine(model, shape, RTX, PORTABLE, lambda step, share: None, detailed=True)
    finally:
        log.removeHandler(plan)
        log.setLevel(level)
    return read_plan(plan.text)


def read_plan(text: str) -> list[Kernel]:
    """The kernels that a detailed list of the builder names, one on each line up to the first empty one."""
    return [_read_kernel(line) for line in text.partition("\n\n")[0].splitlines()]


def _read_kernel(line: str) -> Kernel:
    match = _KERNEL.match(line)
    if match is None:
        raise ValueError(f"got a kernel as {line[:200]!r}, expected it as TensorRT-RTX 1.7 prints it")
    name, kind, *groups = match.groups()
    # By name: a kernel that reads several slices of a tensor lists it once for each.
    inputs, constants, outputs = (
        {name: (_sizes(dimensions), _BYTES[kind]) for name, dimensions, kind in _TENSOR.findall(group)}
        for group in groups
    )
    moved = sum(math.prod(sizes) * width for sizes, width in (inputs | constants | outputs).values())
    flop = 0
    if kind in _CONVOLUTIONS:
        (batch, _, height, width), _ = next(iter(outputs.values()))
        weights, _ = next(iter(constants.values()))
        flop = 2 * batch * height * width * math.prod(weights)
    return Kernel(name, moved, flop)


def _sizes(dimensions: str) -> list[int]:
    return [int(size) for size in dimensions.split(",") if size]


def bound_ms(kernels: Iterable[Kernel], tflops: float, gb_per_s: float) -> float:
    """Milliseconds if each kernel takes the longer of its arithmetic at peak and its bytes at full bandwidth."""
    return sum(max(kernel.flop / tflops / 1e9, kernel.moved / gb_per_s / 1e6) for kernel in kernels)


def print_plans(presets: Iterable[str], sizes: Iterable[tuple[int, ...]]) -> None:
    """Print a row for each preset and size, batch 1, fp16. Every figure is calculated."""
    print("Calculated from the builder's plan, fp16, batch 1; a bound, not a time.\n")
    print_head("preset", "size", "kernels", "moved, GB", "TFLOP", *(f"{gpu}, ms" for gpu in GPUS))
    for preset in presets:
        for height, width in sizes:
            kernels = make_plan(preset, EngineShape(height, width))
            moved, flop = sum(kernel.moved for kernel in kernels) / 1e9, sum(kernel.flop for kernel in kernels) / 1e12
            bounds = [f"{bound_ms(kernels, *gpu):.1f}" for gpu in GPUS.values()]
            print_row(f"`{preset}`", f"{height}x{width}", f"{len(kernels)}", f"{moved:.2f}", f"{flop:.2f}", *bounds)
