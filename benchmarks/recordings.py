"""What recordings cost beside the network: ``python benchmarks/recordings.py speed``, ``memory`` or ``fleet``.

speed   frames a second of sapnet bag, and of the bare Derainer on the same frames, already decoded, by turns
memory  the peak of a process that derains a recording of so many frames with the fake backend
fleet   what a fleet gains from workers of a core each, and costs per recording beside a loop of derain_bag; on a Ray
        made once, so that its start, which is printed too, is not in the figures
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tables import print_head, print_row

from bag_builders import FRAME_NS, START_NS, compressed, image, smooth_frames, write_bag
from sapnet import Derainer
from sapnet.bags.derain import derain_bag
from sapnet.commands.common import parse_positive, parse_shape
from sapnet.fleet import FleetOptions, derain_fleet, plan_bags
from sapnet.fleet.run import connected

TOPICS = {"raw": (image, "/camera/image_raw"), "compressed": (compressed, "/camera/image_raw/compressed")}


def write_recording(path: Path, frames: list[np.ndarray], total: int, kind: str = "raw", storage: str = "mcap") -> None:
    """``total`` images, the frames over and over."""
    make, topic = TOPICS[kind]
    sent = (make(topic, START_NS + n * FRAME_NS, frames[n % len(frames)]) for n in range(total))
    write_bag(path, sent, storage)


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def speed(args: argparse.Namespace, folder: Path) -> None:
    """The bare Derainer, and recordings of both transports."""
    frames = smooth_frames(args.frames, *args.size)
    for kind in TOPICS:
        write_recording(folder / kind, frames, args.frames, kind)
    outputs = (folder / f"output_{number}" for number in count())
    with Derainer(args.weights, backend=args.backend) as derainer:
        work: dict[str, Callable[[], object]] = {"Derainer": lambda: [derainer([frame]) for frame in frames]}
        work |= {kind: lambda kind=kind: derain_bag(derainer, folder / kind, next(outputs)) for kind in TOPICS}
        derainer(frames[:1])
        turns = [{name: seconds(one) for name, one in work.items()} for _ in range(args.turns)]
        print(f"{derainer.backend_name} {derainer.precision}, {args.frames} frames, median of {args.turns} turns\n")
    print_head("", "frames/s", "of the Derainer's")
    for name in work:
        per_s = args.frames / median(turn[name] for turn in turns)
        print_row(name, f"{per_s:.2f}", f"{median(turn['Derainer'] / turn[name] for turn in turns):.2f}")


def memory(args: argparse.Namespace, folder: Path) -> None:
    """Short and long recordings in both storages, each derained by a process of its own."""
    frames = smooth_frames(20, *args.size)
    print_head("storage", "frames", "MB")
    for storage in ("mcap", "sqlite3"):
        for total in args.totals:
            source = folder / f"{storage}_{total}"
            write_recording(source, frames, total, storage=storage)
            command = [sys.executable, __file__, "child", str(source), str(folder / f"{storage}_{total}_out")]
            peak_kb = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print_row(storage, str(total), f"{peak_kb / 1024:.1f}")


def child(args: argparse.Namespace, folder: Path) -> None:
    """Derain one recording; prints the peak memory in KB."""
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, args.source, args.output)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def fleet(args: argparse.Namespace, folder: Path) -> None:
    """A loop, one worker and two by turns: with latency, on OpenVINO with a thread each, of one frame each."""
    began_s = time.perf_counter()
    with connected("", 2):
        print(f"Ray's start: {time.perf_counter() - began_s:.1f} s\n")
        print_head("network", "recordings", "workers", "frames/s", "speed-up", "more than the loop, ms per recording")
        for options, bags, total, size in (
            ({"backend": "fake", "fake": {"latency_ms": 20.0}}, 6, 50, (120, 160)),
            ({"backend": "openvino"}, 4, 10, (240, 320)),
            ({"backend": "fake"}, 40, 1, (120, 160)),
        ):
            drives = folder / f"drives_{bags}"
            drives.mkdir()
            for bag in range(bags):
                write_recording(drives / f"{bag:03d}", smooth_frames(min(total, 10), *size), total)
            outputs = (folder / f"{bags}_{number}" for number in count())
            turns = [
                (loop_s(drives, next(outputs), options), *(fleet_s(drives, next(outputs), options, n) for n in (1, 2)))
                for _ in range(args.turns)
            ]
            alone, one, two = (min(times) for times in zip(*turns, strict=True))
            said = str(options["backend"]), f"{bags} of {total} frames, {size[0]}x{size[1]}"
            print_row(*said, "a loop", f"{bags * total / alone:.1f}", "", "")
            for workers, taken_s in ((1, one), (2, two)):
                per_s, more_ms = bags * total / taken_s, (taken_s * workers - alone) / bags * 1e3
                print_row(*said, str(workers), f"{per_s:.1f}", f"{one / taken_s:.2f}", f"{more_ms:.1f}")


def loop_s(drives: Path, output: Path, network: Mapping[str, Any]) -> float:
    """Seconds of a plain loop, without loading the network."""
    options = {"threads": 1} if network["backend"] == "openvino" else {}
    output.mkdir()
    with Derainer(**{**network, **options}) as derainer:
        return seconds(lambda: [derain_bag(derainer, bag, output / bag.name) for bag in sorted(drives.iterdir())])


def fleet_s(drives: Path, output: Path, network: Mapping[str, Any], workers: int) -> float:
    """Seconds from the first task to the last one's end: without the start of the workers."""
    report = derain_fleet(plan_bags([str(drives)], output), output, network, None, FleetOptions(workers=workers))
    assert all(row.state == "done" for row in report.rows), report.rows
    begins, ends = ([datetime.fromisoformat(getattr(row, at)) for row in report.rows] for at in ("started", "ended"))
    return (max(ends) - min(begins)).total_seconds()


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for work in (speed, memory, fleet, child):
        command = commands.add_parser(work.__name__, help=work.__doc__)
        command.set_defaults(work=work)
        if work in (speed, fleet):
            command.add_argument("--turns", type=parse_positive, default=3)
        if work in (speed, memory):
            command.add_argument("--size", type=parse_shape, default=(360, 640), metavar="HxW")
        if work is speed:
            command.add_argument("--backend", default="openvino")
            command.add_argument("--weights", default="sapnet_fast")
            command.add_argument("--frames", type=parse_positive, default=60)
        if work is memory:
            command.add_argument("--totals", type=parse_positive, nargs="+", default=[200, 2000], help="of frames")
        if work is child:
            command.add_argument("source", type=Path)
            command.add_argument("output", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        args.work(args, Path(folder))


if __name__ == "__main__":
    main()
