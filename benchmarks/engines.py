"""What engines cost, as markdown: ``python benchmarks/engines.py plan`` or ``gpu``.

plan    kernels, bytes moved, arithmetic and a bound for each GPU, calculated from the builder's plan; needs no GPU
gpu     milliseconds per frame from host to host, of engines and of what torch does without them; needs a GPU

For the plan TensorRT-RTX's builder logs every kernel with the tensors that it reads and writes. Bytes moved are the
sizes of all of them: what a cache holds from one kernel to the next is counted too. Arithmetic is that of the
convolutions.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import sys
from collections.abc import Iterator
from functools import partial
from io import StringIO
from itertools import product
from typing import NamedTuple

import torch
from tables import print_table

from sapnet.backends.base import EngineShape
from sapnet.backends.devices import driver_version
from sapnet.backends.engines.build_onnx import PORTABLE, RTX, build_engine, export_onnx
from sapnet.commands.bench import Contender, measure, network
from sapnet.commands.common import parse_shape
from sapnet.errors import SapnetError, first_line
from sapnet.model.deploy import Form, load_deploy_network


class Work(NamedTuple):
    """Of one kernel. flop: a multiplication and an addition count as two. bytes: all that it reads and writes."""

    flop: int
    bytes: int


class Peak(NamedTuple):
    """Of a GPU: the speed of its arithmetic and of its memory."""

    flop_per_s: float
    bytes_per_s: float

    def seconds(self, works: list[Work]) -> float:
        """The least time for kernels that run one after another (roofline)."""
        return sum(max(work.flop / self.flop_per_s, work.bytes / self.bytes_per_s) for work in works)


PRESETS = ("sapnet_fast", "sapnet")
SHAPES = ((720, 1280), (360, 640), (1080, 1920))
# Dense fp16 with sums in float32, in FLOP/s, and memory bandwidth, in bytes/s, as published for these GPUs. Derived
# from the published figure: the RTX 5090's as a quarter of its 838 TFLOPS (sparse fp16 with sums in fp16: GeForce
# halves the rate for sums in float32), Orin's as a quarter of its GPU's 170 TOPS (sparse int8), Thor's as a quarter of
# its 1035 TFLOPS (sparse fp8).
GPUS = {
    "RTX 4090": Peak(165.2e12, 1008.0e9),
    "RTX 5090": Peak(209.5e12, 1792.0e9),
    "AGX Orin 64 GB": Peak(42.5e12, 204.8e9),
    "AGX Thor T5000": Peak(258.8e12, 273.0e9),
    "H100 SXM": Peak(989.4e12, 3350.0e9),
}
_BYTES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Half": 2, "BFloat16": 2, "Float": 4, "Int32": 4, "Int64": 8}
_KERNEL = re.compile(r"^Name: .*?, LayerType: (\w+), Inputs: (.*?), Constants: (.*?), Outputs: (.*?), TacticName:")
_CONVOLUTIONS = ("correlation", "runtime_fusion")  # alone, and with what follows it
_NUMBER = re.compile(r"\d+")
_TENSOR = re.compile(r"Name: ([^,]+), Dimensions: \[([\d,]*)\].*?Datatype: (\w+)")


def make_plan(model: bytes, shape: EngineShape) -> list[Work]:
    """The kernels of an exported network's engine. Raises SapnetError."""
    log, said = logging.getLogger("sapnet"), StringIO()
    handler, level = logging.StreamHandler(said), log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        build_engine(model, shape, RTX, PORTABLE, lambda step, share: None, detailed=True)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return read_plan(said.getvalue().partition("TensorRT: Layers:\n")[2])


def read_plan(text: str) -> list[Work]:
    """The kernels that a detailed list of the builder names, one on each line up to the first empty one."""
    kernels = []
    for line in text.partition("\n\n")[0].splitlines():
        match = _KERNEL.match(line)
        if match is None:
            raise ValueError(f"got a kernel as {line[:200]!r}, expected it as TensorRT-RTX 1.7 prints it")
        kind, *groups = match.groups()
        # By name: a kernel that reads several slices of a tensor lists it once for each.
        inputs, constants, outputs = (
            {name: ([*map(int, _NUMBER.findall(sizes))], _BYTES[kind]) for name, sizes, kind in _TENSOR.findall(group)}
            for group in groups
        )
        moved = sum(math.prod(sizes) * width for sizes, width in (inputs | constants | outputs).values())
        flop = 0
        if kind in _CONVOLUTIONS:
            (batch, _, height, width), _ = next(iter(outputs.values()))
            weights, _ = next(iter(constants.values()))
            flop = 2 * batch * height * width * math.prod(weights)
        kernels.append(Work(flop, moved))
    return kernels


def plans(args: argparse.Namespace) -> Iterator[list[str]]:
    """A row for each preset and size, batch 1, fp16. Every figure is calculated."""
    for preset in args.presets:
        model = export_onnx(load_deploy_network(preset, form=Form.ENGINE), "fp16")
        for height, width in args.sizes:
            kernels = make_plan(model, EngineShape(height, width))
            moved = sum(kernel.bytes for kernel in kernels) / 1e9
            flop = sum(kernel.flop for kernel in kernels) / 1e12
            bounds = [f"{1e3 * peak.seconds(kernels):.1f}" for peak in GPUS.values()]
            yield [f"`{preset}`", f"{height}x{width}", f"{len(kernels)}", f"{moved:.2f}", f"{flop:.2f}", *bounds]


def speed(args: argparse.Namespace) -> Iterator[list[str]]:
    """p50 / p95 in ms per frame from host to host, and how many times as fast as CUDA graphs, by turns with these.

    The share of the bound is that of ``sapnet bench``. What fails says why, and the others still count.
    """
    from contenders import eager, plain

    published = {"eager fp32": ("fp32", False), "eager fp16": ("fp16", False), "torch.compile fp16": ("fp16", True)}
    backends = {"CUDA graphs fp16": "torch", "TensorRT fp16": "tensorrt"}
    for preset, (height, width), batch in product(args.presets, args.sizes, args.batches):
        fp16 = partial(network, weights=preset, precision="fp16", device="cuda")
        for name in [*published, *backends]:
            said = [f"`{preset}`", f"{height}x{width}", str(batch), name]
            try:
                contender: Contender
                if name in published:
                    infer = eager(load_deploy_network(preset), "cuda", *published[name])
                    contender = partial(plain, name=name, infer=infer)
                else:
                    contender = partial(fp16, backend=backends[name])
                _, timing = measure([partial(fp16, backend="torch"), contender], height, width, batch, args.calls)
            # A compiler that is missing, an engine that is refused, memory that runs out.
            except (SapnetError, RuntimeError) as err:
                yield [*said, first_line(err), "", ""]
                continue
            ms = f"{timing.p50_ms / batch:.2f} / {timing.p95_ms / batch:.2f}"
            yield [*said, ms, f"{timing.ratio:.2f}", "" if timing.of_bound is None else f"{timing.of_bound:.2f}"]
            torch.cuda.empty_cache()


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "gpu"))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--sizes", nargs="+", type=parse_shape, default=SHAPES, metavar="HxW")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4], help="gpu: frames at a time")
    parser.add_argument("--calls", type=int, default=200, help="gpu: timed calls per cell")
    args = parser.parse_args()
    if args.what == "plan":
        print("Calculated from the builder's plan, fp16, batch 1; a bound, not a time.\n")
        bounds = [f"{gpu}, ms" for gpu in GPUS]
        print_table(["preset", "size", "kernels", "moved, GB", "TFLOP", *bounds], plans(args))
    elif torch.cuda.is_available():
        print(f"{torch.cuda.get_device_name()}, {driver_version()}\n")
        measured = ("p50 / p95, ms per frame", "ratio", "of the bound")
        print_table(("preset", "size", "batch", "network", *measured), speed(args))
    else:
        sys.exit(f"needs an NVIDIA GPU and a CUDA build of torch; this torch {torch.__version__} finds none")


if __name__ == "__main__":
    main()
