"""What engines cost, as markdown: ``python benchmarks/engines.py builds``, ``cache``, ``plan`` or ``gpu``.

builds  time, size and peak memory of TensorRT-RTX builds ahead of time, and whether two are the same; needs no GPU
cache   how long a hit, a miss and the recovery from a damaged entry take; needs no GPU
plan    kernels, bytes moved, arithmetic and a bound for each GPU, calculated from the builder's plan; needs no GPU
gpu     milliseconds per frame from host to host, of engines and of what torch does without them; needs a GPU

Each build is a ``sapnet compile`` of its own. Leave the machine idle meanwhile, or say that it was not.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from tables import ROOT, print_head, print_row

from sapnet.backends.devices import processor_name
from sapnet.commands.common import parse_shape
from sapnet.config import PRESETS

SIZES = ("360x640", "720x1280")
SHAPES = ((720, 1280), (360, 640), (1080, 1920))
PRECISIONS = ("fp16", "bf16", "fp32")
TARGETS = ("portable", "sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
REPEATS = 20
# Random ones do: what is built is the network.
MAKE_WEIGHTS = (
    "import sys; from sapnet.config import PRESETS; from sapnet.model import SAPNet; "
    "from sapnet.model.weights import save_weights; save_weights(SAPNet(PRESETS[sys.argv[1]]), sys.argv[2], {})"
)


def run(command: list[str]) -> tuple[str, float, float]:
    """What a command prints, the seconds it takes and its peak memory in GB."""
    began = time.monotonic()
    # This process has to stay small: until its exec, a child's peak is that of its parent.
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"failed with {child.returncode}: {' '.join(command)}")
    return said, time.monotonic() - began, usage.ru_maxrss / 1e6


def compile_engine(weights: str, precision: str, target: str, size: str, cache: Path) -> dict[str, Any]:
    """Of one ``sapnet compile``: its last line, with the seconds that its export took, its own and its memory."""
    options = ["--weights", weights, "--precision", precision, "--target", target, "--shape", size]
    command = [sys.executable, "-m", "sapnet", "compile", "--ahead-of-time", "--json", "--cache-dir", str(cache)]
    said, seconds, peak_gb = run([*command, *options])
    *progress, built = [json.loads(line) for line in said.splitlines()]
    export_s = next((event["seconds"] for event in progress if event["step"] == "building"), 0.0)
    return {**built, "export_s": export_s, "command_s": seconds, "peak_gb": peak_gb}


def forget(built: dict[str, Any]) -> str:
    """The digest of an engine, which is removed from the cache."""
    from sapnet.backends.engines.cache import read_entry

    digest = read_entry(built["engine"]).sha256
    Path(built["engine"]).unlink()
    return digest


def print_builds(presets: list[str], precisions: list[str], targets: list[str]) -> None:
    """A row for each engine, built twice: for all ``targets`` of sapnet_fast in fp16, else for the portable one.

    The first of a preset and precision exports it, too; what is timed is the second, from an export that is there.
    """
    print_head(
        "preset", "precision", "target", "size", "export, s", "build, s", "engine, MB", "peak, GB", "twice the same"
    )
    same, total = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for preset, precision in product(presets, precisions):
            weights = str(Path(folder) / f"{preset}.safetensors")
            run([sys.executable, "-c", MAKE_WEIGHTS, preset, weights])
            every = targets if (preset, precision) == ("sapnet_fast", "fp16") else ["portable"]
            for target, size in product(every, SIZES):
                wanted = (weights, precision, target, size, Path(folder) / preset / precision)
                first = compile_engine(*wanted)
                digest = forget(first)
                second = compile_engine(*wanted)
                is_same = forget(second) == digest
                figures = [f"{first['export_s']:.1f}", str(second["seconds"]), f"{second['bytes'] / 1e6:.2f}"]
                figures += [f"{first['peak_gb']:.2f}", "yes" if is_same else "no"]
                print_row(f"`{preset}`", precision, target, size, *figures)
                same, total = same + is_same, total + 1
    print(f"\nBuilt twice, {same} of {total} engines were the same byte for byte.")


def print_cache() -> None:
    """Medians of the cache's own work on a real engine, and of whole commands around it."""
    from sapnet.backends.engines.cache import EngineCache, read_entry

    with tempfile.TemporaryDirectory() as folder:
        wanted = ("sapnet_fast", "fp16", "portable", SIZES[1], Path(folder))
        path = Path(compile_engine(*wanted)["engine"])
        entry, cache = read_entry(path), EngineCache(folder)
        data = path.read_bytes()

        def store() -> None:
            cache.store(entry.key, entry.data, entry.about)

        def damage() -> None:
            path.write_bytes(data[:-1])

        logging.disable()  # each damaged one is a line in the log
        print_head("", "milliseconds")
        print_time("hit: load, checksum verified", lambda: cache.load(entry.key))
        print_time("miss", lambda: cache.load({"kind": "engine", "name": "none"}))
        print_time("store: write, sync, rename", store)
        print_time("a damaged entry is found and removed", lambda: cache.load(entry.key), damage)
        print()
        print_head("a whole `sapnet compile`", "milliseconds")
        for what, before in (
            ("hit", store),
            ("miss: built from the export in the cache", lambda: path.unlink(missing_ok=True)),
            ("recovery from a damaged entry", damage),
        ):
            print_time(what, lambda: compile_engine(*wanted), before, repeats=3)


def print_time(
    what: str, work: Callable[[], object], before: Callable[[], None] = lambda: None, repeats: int = REPEATS
) -> None:
    """The median time of ``work``, each time after ``before``."""
    times = []
    for _ in range(repeats):
        before()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    print_row(what, f"{statistics.median(times) * 1e3:.2f}")


def print_speed(presets: list[str], sizes: list[tuple[int, int]], batches: list[int], calls: int) -> None:
    """p50 / p95 in ms per frame from host to host, and how many times as fast as CUDA graphs, by turns with these.

    The share of the bound is that of ``sapnet bench``. What fails says why, and the others still count.
    """
    import torch
    from contenders import Plain, eager

    from sapnet.backends.devices import driver_version
    from sapnet.bench import Candidate, measure
    from sapnet.errors import SapnetError, first_line
    from sapnet.model.deploy import load_deploy_network

    if not torch.cuda.is_available():
        raise SystemExit(f"needs an NVIDIA GPU and a CUDA build of torch; this torch {torch.__version__} finds none")
    print(f"{torch.cuda.get_device_name()}, {driver_version()}\n")
    print_head("preset", "size", "batch", "network", "p50 / p95, ms per frame", "ratio", "of the bound")
    for preset, (height, width), batch in product(presets, sizes, batches):
        graphs = Candidate(preset, "torch", "fp16", "cuda")
        plain = {"eager fp32": ("fp32", False), "eager fp16": ("fp16", False), "torch.compile fp16": ("fp16", True)}
        contenders = {"CUDA graphs fp16": graphs, "TensorRT fp16": Candidate(preset, "tensorrt", "fp16", "cuda")}
        for name in [*plain, *contenders]:
            said = f"`{preset}`", f"{height}x{width}", str(batch), name
            try:
                if name in plain:
                    contender = Plain(name, eager(load_deploy_network(preset), "cuda", *plain[name]))
                else:
                    contender = contenders[name]
                _, timing = measure([graphs, contender], height, width, batch, calls)
            # A compiler that is missing, an engine that is refused, memory that runs out.
            except (SapnetError, RuntimeError) as err:
                print_row(*said, first_line(err), "", "")
                continue
            ms = f"{timing.p50_ms / batch:.2f} / {timing.p95_ms / batch:.2f}"
            print_row(*said, ms, f"{timing.ratio:.2f}", "" if timing.of_bound is None else f"{timing.of_bound:.2f}")
            torch.cuda.empty_cache()


def print_machine() -> None:
    """Where the figures come from."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "tensorrt_rtx"))
    python = f"Python {platform.python_version()}"
    load = f"load {os.getloadavg()[0]:.1f} at the beginning"
    print(f"{processor_name()}, {os.cpu_count()} cores, {load}; {python}, {versions}\n")


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("builds", "cache", "plan", "gpu"))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--sizes", nargs="+", type=parse_shape, default=SHAPES, metavar="HxW", help="plan and gpu")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4], help="gpu: frames at a time")
    parser.add_argument("--calls", type=int, default=200, help="gpu: timed calls per cell")
    args = parser.parse_args()
    # torch, which other measurements stay free of, is imported for these two alone.
    with_weights = [preset for preset in args.presets if preset != "sapnet_separable"]
    if args.what == "gpu":
        print_speed(with_weights, args.sizes, args.batches, args.calls)
        return
    if args.what == "plan":
        from engine_plan import print_plans

        print_plans(with_weights, args.sizes)
        return
    print_machine()
    if args.what == "builds":
        print_builds(args.presets, args.precisions, args.targets)
    else:
        print_cache()


if __name__ == "__main__":
    main()
