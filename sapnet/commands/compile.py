"""``sapnet compile``: builds TensorRT engines before they are needed, here or for another machine."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from sapnet.commands.common import (
    Subparsers,
    add_command,
    add_network_arguments,
    derainer_from,
    parse_positive,
    parse_shape,
    progress_bar,
    stdout_console,
    tell_builds,
)
from sapnet.errors import SapnetError

if TYPE_CHECKING:
    from rich.progress import Progress

    from sapnet.backends.base import BuildStatus, EngineShape, OnBuild
    from sapnet.backends.engines.cache import EngineCache

_DESCRIPTION = """\
Build the TensorRT engine for a frame size into the cache, where the node and all commands find it. What is there
already is not built again.

With --ahead-of-time the engine is for other machines, and this one needs no GPU, only tensorrt_rtx. It runs with the
same version of TensorRT-RTX alone; a portable one runs on GPUs of compute capability 8.6, 8.9 and 12.0. A Jetson
builds its own.
"""

_EXAMPLES = """\
sapnet compile --shape 720x1280
sapnet compile --shape 720x1280 --batch 4 --precision fp32
sapnet compile --ahead-of-time --shape 720x1280 --target sm89 -o my.engine
sapnet compile --list
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet compile``."""
    parser = add_command(subparsers, "compile", "build TensorRT engines before the drive", _EXAMPLES, _DESCRIPTION)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shape", type=parse_shape, nargs="+", metavar="HxW", help="frame sizes, height x width")
    what.add_argument("--list", action="store_true", help="show what is in the cache")
    what.add_argument("--clear", action="store_true", help="empty the cache")
    add("--batch", type=parse_positive, default=1, metavar="N", help="frames at once, up to (default: %(default)s)")
    add("--ahead-of-time", action="store_true", help="build for another machine, without a GPU")
    add("--target", default="portable", help="with --ahead-of-time: portable, sm75, sm80, sm86, sm89, sm120 or sm121")
    add("-o", "--output", type=Path, metavar="FILE", help="with --ahead-of-time: write the engine here, too")
    add("--cache-dir", default="", metavar="DIR", help="folder of the cache (default: the user's)")
    add("--json", action="store_true", help="print one JSON object a line: progress, then the engine")
    add_network_arguments(parser, backend=False)
    parser.set_defaults(backend="tensorrt", engine="")
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for. Raises SapnetError."""
    from sapnet.backends.engines.cache import EngineCache

    cache = EngineCache(args.cache_dir)
    if args.list:
        _list(cache, args.json)
    elif args.clear:
        removed = cache.clear()
        print(json.dumps({"removed": removed}) if args.json else f"{removed} entries removed from {cache.folder}")
    else:
        _compile(args, cache)
    return 0


def _compile(args: argparse.Namespace, cache: EngineCache) -> None:
    from sapnet.backends.base import EngineShape

    if args.output and (not args.ahead_of_time or len(args.shape) > 1):
        raise SapnetError("-o writes one engine that is built --ahead-of-time; others stay in the cache")
    with progress_bar() as bar:
        tell = _teller(bar, args.json)
        for height, width in args.shape:
            shape = EngineShape(height, width, args.batch)
            facts = _build_ahead(args, cache, shape, tell) if args.ahead_of_time else _build_here(args, shape, tell)
            if args.json:
                print(json.dumps(facts), flush=True)
                continue
            size = f"{facts['bytes'] / 1e6:.1f} MB" if "bytes" in facts else f"ready on {facts['device']}"
            print(f"{facts['shape']}: {size}, built in {facts['seconds']} s", *filter(None, [facts.get("engine")]))


def _build_ahead(args: argparse.Namespace, cache: EngineCache, shape: EngineShape, tell: OnBuild) -> dict[str, Any]:
    from sapnet.backends.base import watch_build
    from sapnet.backends.engines.build import build_in_child
    from sapnet.backends.engines.build_onnx import RTX, OnnxRequest
    from sapnet.backends.engines.cache import write_entry
    from sapnet.model.weights import load_weights

    precision = "fp16" if args.precision == "auto" else args.precision
    stages = args.stages or load_weights(args.weights).config.stages
    request = OnnxRequest(args.weights, shape, precision, stages, RTX, args.target)
    # In a child: TensorRT swallows a KeyboardInterrupt in this process.
    entry = cache.load(request.key()) or build_in_child(request, cache, watch_build(shape, tell), Event())
    if args.output:
        entry = write_entry(args.output, entry.key, entry.data, entry.about)
    return {"engine": str(entry.path), "shape": str(shape), "bytes": len(entry.data), **entry.about}


def _build_here(args: argparse.Namespace, shape: EngineShape, tell: OnBuild) -> dict[str, Any]:
    with derainer_from(args, max_batch=shape.max_batch, cache_dir=args.cache_dir, on_build=tell) as derainer:
        began = time.monotonic()
        derainer.prepare(*shape)
        seconds = round(time.monotonic() - began, 1)
        return {"shape": str(shape), "ready": True, "device": derainer.device, "seconds": seconds}


def _teller(bar: Progress, as_json: bool) -> OnBuild:
    """Return a callback that shows progress: as JSON, on the bar on a terminal, else as a line every few seconds."""
    task, tell_line = bar.add_task("", total=1.0), tell_builds()

    def tell(status: BuildStatus) -> None:
        bar.update(task, description=f"{status.shape}: {status.step}", completed=status.share)
        if as_json:
            facts = {"step": status.step, "share": round(status.share, 3), "seconds": round(status.seconds, 1)}
            print(json.dumps(facts), flush=True)
        elif bar.disable:
            tell_line(status)

    return tell


def _list(cache: EngineCache, as_json: bool) -> None:
    from rich import box
    from rich.table import Table

    entries = cache.entries()
    files = [(status.st_size, status.st_mtime) for status in (entry.path.stat() for entry in entries)]
    if as_json:
        rows = [
            {"path": str(entry.path), "bytes": size, "used": used, "key": entry.key, "about": entry.about}
            for entry, (size, used) in zip(entries, files, strict=True)
        ]
        print(json.dumps({"folder": str(cache.folder), "entries": rows}, indent=2))
        return
    caption = "" if entries else "empty"
    table = Table(title=str(cache.folder), title_justify="left", box=box.SIMPLE_HEAD, caption=caption)
    for heading in ("kind", "shape", "precision", "built for", "agreement", "last used"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MB", justify="right")
    # On the GPU that ran an engine last.
    proofs = {entry.key["engine"]: entry.about for entry in reversed(entries) if entry.key["kind"] == "proof"}
    for entry, (size, used) in zip(entries, files, strict=True):
        key, kind = entry.key, str(entry.key["kind"])
        shape = "{}x{}, {}".format(*key["shape"]) if "shape" in key else ""
        when = time.strftime("%m-%d %H:%M", time.localtime(used))
        made_for = str(key.get("target") or key.get("gpu", ""))
        proof = proofs.get(entry.sha256, entry.about).get("agreement_db")
        agreement = "refused" if kind == "verdict" else f"{proof} dB" if proof else ""
        table.add_row(kind, shape, str(key.get("precision", "")), made_for, agreement, when, f"{size / 1e6:.1f}")
    stdout_console().print(table)
