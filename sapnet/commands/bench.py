"""``sapnet bench``: times weights, backends and other ONNX models by turns, beside what this machine can do at most."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sapnet.backends import BACKENDS, BackendSpec
from sapnet.backends.base import PRECISIONS, Frames, import_installed
from sapnet.backends.devices import processor_name
from sapnet.commands.common import (
    Subparsers,
    add_command,
    add_network_arguments,
    parse_positive,
    parse_shape,
    progress_bar,
    stdout_console,
    tell_builds,
)
from sapnet.derainer import Derainer
from sapnet.errors import BackendError, first_line

_DESCRIPTION = """\
Time the network on noise. All combinations of --weights and --backend, and all models of --onnx, take turns in one
run, after a warm-up. Leave the machine idle meanwhile.

"ratio" is how many times as fast as the first row a row is, the median over the turns. "bound" is the share of the
time that this machine needs at least for the network's arithmetic, at the speed of a large matrix product in the same
precision, which is measured before the run.
"""

_EXAMPLES = """\
sapnet bench
sapnet bench --shape 720x1280 --backend torch:fp32 openvino --frames 50
sapnet bench --weights sapnet_fast my_weights.safetensors --json
sapnet bench --onnx other.onnx --layout nchw
"""

_WARM_UP = 2
_SEED = 0
# What a device's peak is measured with.
_GEMM_SIDE = 1536
_REPEATS = 5


@dataclass
class Timing:
    """A contender and, once it is measured, its times.

    stages: None for other networks. bound_ms: lower bound of a call's time here; None if unknown.
    p5_ms, p50_ms, p95_ms: of a call with a whole batch. fps: frames per second at p50. ratio: how many times as fast as
    the first contender, the median over turns. of_bound: the share of bound_ms in p50_ms; None where unknown.
    """

    weights: str
    backend: str
    precision: str
    device: str
    stages: int | None = None
    bound_ms: float | None = None
    p5_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    fps: float = 0.0
    ratio: float = 1.0
    of_bound: float | None = None


# What runs a contender once, and what it is, without its times.
Ready = tuple[Callable[[], object], Timing]
# Makes something ready for uint8 (B, H, W, 3) noise. Raises SapnetError.
Contender = Callable[[Frames], AbstractContextManager[Ready]]


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet bench``."""
    parser = add_command(subparsers, "bench", "time the network on this machine", _EXAMPLES, _DESCRIPTION)
    add = parser.add_argument
    add("--shape", type=parse_shape, default=(240, 320), metavar="HxW", help="height x width (default: 240x320)")
    add("--batch", type=parse_positive, default=1, metavar="N", help="frames per call (default: %(default)s)")
    add("--frames", type=parse_positive, default=20, metavar="N", help="calls timed of each (default: %(default)s)")
    add("--onnx", nargs="+", type=Path, default=[], metavar="MODEL", help="other models to time, on OpenVINO")
    add("--layout", choices=("nchw", "nhwc"), default="nchw", help="image layout of --onnx (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")
    weights = "shipped weights or files; several are compared (default: sapnet_fast)"
    add("--weights", nargs="+", default=["sapnet_fast"], metavar="NAME|PATH", help=weights)
    backends = f"{', '.join(BACKENDS)}; several are compared (default: auto)"
    add("--backend", nargs="+", type=_parse_backend, default=[("auto", "")], metavar="NAME[:PRECISION]", help=backends)
    add_network_arguments(parser, backend=False, weights=False)
    return parser


def run(args: argparse.Namespace) -> int:
    """Time what the arguments ask for and print it. Raises SapnetError."""
    options = {"device": args.device, "stages": args.stages, "on_build": tell_builds()}
    contenders: list[Contender] = [
        partial(network, weights=weights, backend=backend, precision=precision or args.precision, **options)
        for weights, (backend, precision) in product(args.weights, args.backend)
    ]
    contenders += [partial(onnx_model, path=path, layout=args.layout, precision=args.precision) for path in args.onnx]
    height, width = args.shape
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(contenders) * (1 + args.frames))
        timings = measure(contenders, height, width, args.batch, args.frames, on_step=lambda: progress.advance(task))
    if args.json:
        setting = {"shape": list(args.shape), "batch": args.batch, "frames": args.frames}
        print(json.dumps({**setting, "timings": [asdict(timing) for timing in timings]}, indent=2))
    else:
        _print_table(timings, args)
    return 0


def _parse_backend(text: str) -> tuple[str, str]:
    """``openvino`` or ``openvino:bf16`` -> (backend, precision or empty)."""
    backend, separator, precision = text.partition(":")
    if backend not in BACKENDS or (separator and precision not in PRECISIONS):
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(BACKENDS)}, and after a colon one of {', '.join(PRECISIONS)}, got {text!r}"
        )
    return backend, precision


def _print_table(timings: Sequence[Timing], args: argparse.Namespace) -> None:
    from rich import box
    from rich.table import Table

    height, width = args.shape
    title = f"{height}x{width}, batch {args.batch}, {args.frames} calls each"
    machine = "; ".join(sorted({f"{timing.backend} on {timing.device}" for timing in timings}))
    table = Table(title=title, caption=machine, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("weights", overflow="fold", min_width=11)
    table.add_column("backend", no_wrap=True)
    for heading in ("stages", "p50 ms", "p5-p95", "fps", "ratio", "bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    for timing in timings:
        table.add_row(
            Path(timing.weights).name,
            f"{timing.backend} {timing.precision}",
            str(timing.stages or ""),
            f"{timing.p50_ms:.1f}",
            "-".join(f"{ms:.{0 if ms >= 100 else 1}f}" for ms in (timing.p5_ms, timing.p95_ms)),
            f"{timing.fps:.1f}",
            f"{timing.ratio:.2f}",
            "" if timing.of_bound is None else f"{timing.of_bound:.0%}",
        )
    stdout_console().print(table)


def measure(
    contenders: Sequence[Contender],
    height: int,
    width: int,
    batch: int = 1,
    frames: int = 20,
    on_step: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time ``frames`` calls of every contender, each with ``batch`` frames of noise, in the contenders' order.

    They take turns call by call, so that other load on the machine slows all of them alike.
    on_step: called after the warm-up and after each call of a contender. Raises SapnetError.
    """
    noise = np.random.default_rng(_SEED).integers(0, 256, (batch, height, width, 3), np.uint8)
    with ExitStack() as stack:
        ready = [stack.enter_context(contender(noise)) for contender in contenders]
        for call, _ in ready:
            for _ in range(_WARM_UP):
                call()
            on_step()
        seconds = np.empty((frames, len(ready)))
        for turn in range(frames):
            for index, (call, _) in enumerate(ready):
                started = time.perf_counter()
                call()
                seconds[turn, index] = time.perf_counter() - started
                on_step()
    timings = [timing for _, timing in ready]
    for timing, own in zip(timings, seconds.T, strict=True):
        p5, p50, p95 = np.percentile(1000.0 * own, (5, 50, 95)).tolist()
        timing.p5_ms, timing.p50_ms, timing.p95_ms = round(p5, 3), round(p50, 3), round(p95, 3)
        timing.fps = round(batch * 1000.0 / p50, 2)
        timing.ratio = round(float(np.median(seconds[:, 0] / own)), 3)
        timing.of_bound = None if timing.bound_ms is None else round(timing.bound_ms / p50, 3)
    return timings


@contextmanager
def network(noise: Frames, weights: str, backend: str, **options: Any) -> Iterator[Ready]:
    """A contender: weights on a backend. options: of Derainer."""
    batch, height, width, _ = noise.shape
    frames = list(noise)
    with Derainer(weights, backend, **options) as derainer:
        derainer.prepare(height, width, batch)
        bound_ms = None
        if backend != "fake":
            peak = measure_peak("cpu" if derainer.device == processor_name() else "cuda", derainer.precision)
            bound_ms = round(1000.0 * count_flop(weights, derainer.stages, batch, height, width) / peak, 3)
        yield lambda: derainer(frames), Timing(**derainer.facts, bound_ms=bound_ms)


@contextmanager
def onnx_model(noise: Frames, path: Path, layout: str = "nchw", precision: str = "auto") -> Iterator[Ready]:
    """A contender: any ONNX model of one image input, as OpenVINO runs it on the CPU.

    A floating-point input gets values in [0, 1]. precision: as of backend ``openvino``.
    """
    openvino = import_installed("sapnet.backends.openvino", "OpenVINO", "pip install openvino")
    precision = openvino.choose_precision(BackendSpec(device="cpu", precision=precision))
    pixels = np.ascontiguousarray(noise.transpose(0, 3, 1, 2) if layout == "nchw" else noise)
    try:
        model = openvino.core().read_model(path)
        (image,) = model.inputs
        model.reshape(list(pixels.shape))
        data = pixels / np.float32(255) if image.get_element_type().is_real() else pixels
        request = openvino.compile_model(model, precision).create_infer_request()
        request.infer([data], share_inputs=True)
    except (RuntimeError, ValueError) as err:
        raise BackendError(
            f"{path}: OpenVINO cannot run it on {layout} {pixels.shape}: {first_line(err)}; "
            "give the --shape and --layout that the model was exported for"
        ) from err
    yield lambda: request.infer([data], share_inputs=True), Timing(str(path), "openvino", precision, processor_name())


def count_flop(weights: str, stages: int, batch: int, height: int, width: int) -> int:
    """Floating-point operations of the deploy network on frames of one size. Raises CheckpointError."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sapnet.model.deploy import Form, load_deploy_network

    deploy = load_deploy_network(weights, stages, Form.CPU).to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        deploy(torch.empty(batch, height, width, 3, dtype=torch.uint8, device="meta"))
    return int(counter.get_total_flops())


@cache
def measure_peak(device: str, precision: str) -> float:
    """FLOP/s: the best of several matrix products of 1536 x 1536, with torch. device: as torch's."""
    import torch
    from torch.utils.benchmark import Timer

    from sapnet.model.deploy import DTYPES

    a, b = (torch.rand(_GEMM_SIDE, _GEMM_SIDE, device=device).to(DTYPES[precision]) for _ in range(2))
    timer = Timer("torch.mm(a, b)", "import torch", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    with torch.inference_mode():
        return 2 * _GEMM_SIDE**3 / min(timer.timeit(1).mean for _ in range(_REPEATS))
