"""``sapnet bench``: times weights and backends on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from sapnet.backends import BACKENDS
from sapnet.backends.base import PRECISIONS
from sapnet.commands.common import (
    add_command,
    add_network_arguments,
    parse_positive,
    parse_shape,
    progress_bar,
    tell_builds,
)

if TYPE_CHECKING:
    from sapnet.bench import Contender, Timing
    from sapnet.commands.common import Subparsers

_DESCRIPTION = """\
Time the network on noise. All combinations of --weights and --backend, and all models of --onnx, take turns in one
run, after a warm-up. Leave the machine idle meanwhile.

"ratio" is how many times as fast as the first row a row is, the median over the turns. "bound" is the share of the
time that this machine needs at least for the network's convolutions: for each the longer of its arithmetic, at the
speed of a large matrix product in the same precision, and its memory traffic, at the speed of a copy. Both speeds are
measured before the run.
"""

_EXAMPLES = """\
sapnet bench
sapnet bench --shape 720x1280 --backend torch:fp32 openvino --frames 50
sapnet bench --weights sapnet_fast my_weights.safetensors --json
sapnet bench --onnx other.onnx --layout nchw
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet bench``."""
    parser = add_command(subparsers, "bench", "time the network on this machine", _EXAMPLES, _DESCRIPTION)
    add = parser.add_argument
    add("--shape", type=parse_shape, default=(240, 320), metavar="HxW", help="height x width (default: 240x320)")
    add("--batch", type=parse_positive, default=1, metavar="N", help="frames per call (default: %(default)s)")
    add("--frames", type=parse_positive, default=20, metavar="N", help="calls timed of each (default: %(default)s)")
    add(
        "--onnx",
        nargs="+",
        type=Path,
        default=[],
        metavar="MODEL",
        help="other models to time, on OpenVINO and onnxruntime",
    )
    add("--layout", choices=("nchw", "nhwc"), default="nchw", help="image layout of --onnx (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")
    add(
        "--weights",
        nargs="+",
        default=["sapnet_fast"],
        metavar="NAME|PATH",
        help="shipped weights or files; several are compared (default: sapnet_fast)",
    )
    add(
        "--backend",
        nargs="+",
        type=_parse_backend,
        default=[("auto", "")],
        metavar="NAME[:PRECISION]",
        help=f"{', '.join(BACKENDS)}; several are compared (default: auto)",
    )
    add_network_arguments(parser, backend=False, weights=False)
    return parser


def run(args: argparse.Namespace) -> int:
    """Time what the arguments ask for and print it. Raises SapnetError."""
    from sapnet.bench import Candidate, OnnxModel, measure

    on_build = tell_builds()
    contenders: list[Contender] = [
        Candidate(weights, backend, precision or args.precision, args.device, args.stages, on_build)
        for weights, (backend, precision) in product(args.weights, args.backend)
    ]
    contenders += [
        OnnxModel(model, runtime, args.layout, args.precision)
        for model, runtime in product(args.onnx, ("openvino", "onnxruntime"))
    ]
    height, width = args.shape
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(contenders) * (1 + args.frames))
        timings = measure(contenders, height, width, args.batch, args.frames, on_step=lambda: progress.advance(task))
    if args.json:
        rows = [asdict(timing) for timing in timings]
        setting = {"shape": list(args.shape), "batch": args.batch, "frames": args.frames}
        print(json.dumps({**setting, "timings": rows}, indent=2))
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
    from rich.console import Console
    from rich.table import Table

    height, width = args.shape
    machine = "; ".join(sorted({f"{timing.backend} on {timing.device}" for timing in timings}))
    table = Table(
        title=f"{height}x{width}, batch {args.batch}, {args.frames} calls each",
        caption=machine,
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("weights", overflow="fold", min_width=11)
    table.add_column("backend", no_wrap=True)
    for heading in ("stages", "p50 ms", "p5-p95", "fps", "ratio", "bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    for timing in timings:
        spread = "-".join(f"{ms:.{0 if ms >= 100 else 1}f}" for ms in (timing.p5_ms, timing.p95_ms))
        figures = (
            f"{timing.p50_ms:.1f}",
            spread,
            f"{timing.fps:.1f}",
            f"{timing.ratio:.2f}",
            "" if timing.of_bound is None else f"{timing.of_bound:.0%}",
        )
        names = (Path(timing.weights).name, f"{timing.backend} {timing.precision}")
        table.add_row(*names, str(timing.stages or ""), *figures)
    Console().print(table)
