"""What a fleet gains from workers and costs per recording: ``python benchmarks/fleet.py`` prints tables.

Fleets on a Ray made once, so that its start, which is printed too, is not in the figures; workers have a core each.
Beside them, in the same run, a plain loop of ``derain_bag`` over the same recordings in one process.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sapnet import Derainer
from sapnet.bags.derain import derain_bag
from sapnet.fleet import FleetOptions, derain_fleet, plan_bags
from sapnet.fleet.run import connected

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from bag_builders import FRAME_NS, START_NS, image, smooth_frames, write_bag

SLOW = {"backend": "fake", "fake": {"latency_ms": 20.0}}
OPENVINO = {"backend": "openvino"}


def write_drives(folder: Path, bags: int, frames: int, shape: tuple[int, int]) -> Path:
    """Recordings of so many frames each."""
    pictures = smooth_frames(min(frames, 10), *shape)
    folder.mkdir()
    for bag in range(bags):
        sent = (image("/cam/image_raw", START_NS + n * FRAME_NS, pictures[n % len(pictures)]) for n in range(frames))
        write_bag(folder / f"drive{bag:03d}", sent)
    return folder


def loop_s(drives: Path, network: Mapping[str, Any]) -> float:
    """Seconds of a plain loop, without loading the network."""
    out = drives.parent / "loop"
    options = {"threads": 1} if network["backend"] == "openvino" else {}
    with Derainer(**{**network, **options}) as derainer:
        began_s = time.perf_counter()
        for bag in plan_bags([str(drives)], out):
            bag.output.parent.mkdir(parents=True, exist_ok=True)
            derain_bag(derainer, bag.source, bag.output)
        seconds = time.perf_counter() - began_s
    shutil.rmtree(out)
    return seconds


def fleet_s(drives: Path, network: Mapping[str, Any], workers: int) -> float:
    """Seconds from the first task to the last one's end: without the start of the workers."""
    out = drives.parent / f"fleet{workers}"
    report = derain_fleet(plan_bags([str(drives)], out), out, network, None, FleetOptions(workers=workers))
    assert all(row.state == "done" for row in report.rows), report.rows
    begins, ends = (
        [datetime.fromisoformat(getattr(row, name)) for row in report.rows] for name in ("started", "ended")
    )
    shutil.rmtree(out)
    return (max(ends) - min(begins)).total_seconds()


def measure(
    title: str, network: Mapping[str, Any], bags: int, frames: int, shape: tuple[int, int], repeat: int
) -> None:
    """A table: the loop, one worker, two; the best of each over rounds in which they take turns."""
    total = bags * frames
    with tempfile.TemporaryDirectory() as folder:
        drives = write_drives(Path(folder) / "drives", bags, frames, shape)
        rounds = [
            (loop_s(drives, network), fleet_s(drives, network, 1), fleet_s(drives, network, 2)) for _ in range(repeat)
        ]
    alone, one, two = (min(times) for times in zip(*rounds, strict=True))
    print(f"\n{title}: {bags} recordings of {frames} frames of {shape[0]}x{shape[1]}, best of {repeat}")
    print(f"  plain loop  {alone:7.2f} s  {total / alone:7.1f} frames/s")
    for workers, seconds in ((1, one), (2, two)):
        print(
            f"  {workers} worker(s) {seconds:7.2f} s  {total / seconds:7.1f} frames/s  speed-up {one / seconds:4.2f}  "
            f"more than the loop's share {(seconds - alone / workers) / bags * workers * 1e3:+7.1f} ms per recording",
            flush=True,
        )


def main() -> None:
    """Measure the fake backend and OpenVINO with a thread for each worker, then recordings of one frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (default: %(default)s)")
    args = parser.parse_args()
    began_s = time.perf_counter()
    with connected("", 2):
        print(f"Ray's start: {time.perf_counter() - began_s:.1f} s")
        measure("fake backend, 20 ms a frame", SLOW, 6, 50, (120, 160), args.repeat)
        measure("OpenVINO, one thread each", OPENVINO, 4, 10, (240, 320), args.repeat)
        measure("overhead: no latency", {"backend": "fake"}, 40, 1, (120, 160), args.repeat)


if __name__ == "__main__":
    main()
