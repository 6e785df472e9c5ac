"""derain_node over DDS: its highest rate, then latency, jitter, drops, processor time and memory at fixed rates.

    python benchmarks/live.py
    python benchmarks/live.py --backend auto --shapes 240x320 --seconds 20

After ros2_benchmark: a player, derain_node and a monitor, each a process of its own. The highest rate is the one at
which at most 5 % of the frames are lost, found by bisection. Latency is measured at half of it, from the player's stamp
to the arrival of the derained frame of equal stamp, all on this host's clock. Writes the table of docs/benchmarks.md.
The backend is fake by default: what is measured is the node.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from typing import NamedTuple

import numpy as np
from cameras import CAMERAS, Run, run
from sensor_msgs.msg import CompressedImage, Image
from tables import print_table, replace

from sapnet.backends.devices import processor_name
from sapnet.commands.common import parse_shape

MAX_LOSS = 0.05
MAX_RATE_HZ = 240.0
STEPS = 4  # of the bisection
HEADINGS = (
    "size, cameras, transport",
    "highest Hz",
    "at Hz",
    "p50 ms",
    "p95",
    "p99",
    "jitter",
    "lost",
    "CPU %",
    "MB",
)


class Setup(NamedTuple):
    """What is measured. profile: whether the Fast DDS profile of the launch files is used."""

    shape: tuple[int, int]
    cameras: int
    transport: str
    profile: bool

    def __str__(self) -> str:
        height, width = self.shape
        return f"{height}x{width}, {self.cameras} x {self.transport}, {'profile' if self.profile else 'no profile'}"


def at_rate(setup: Setup, backend: str, rate: float, seconds: float) -> Run:
    """The frames of one rate."""
    kind = CompressedImage if setup.transport == "compressed" else Image
    parameters = [f"backend:={backend}", f"image_transport:={setup.transport}"]
    parameters.append(f"publish_compressed:={str(kind is not Image).lower()}")
    cameras = CAMERAS[: setup.cameras]
    return run(cameras, setup.shape, rate, seconds, *parameters, kind=kind, profile=setup.profile)


def highest_rate(setup: Setup, backend: str, seconds: float) -> float:
    """In Hz, of each camera; 0 where even one frame a second is too much."""
    low, high = 0.0, MAX_RATE_HZ
    rate = 30.0
    for _ in range(STEPS):
        played = at_rate(setup, backend, rate, seconds)
        low, high = (rate, high) if played.lost <= MAX_LOSS * played.sent else (low, rate)
        rate = 2 * low if high == MAX_RATE_HZ else (low + high) / 2
        rate = min(rate, MAX_RATE_HZ)
    return low


def row(setup: Setup, backend: str, seconds: float) -> list[str]:
    """The cells of a table's row."""
    highest = highest_rate(setup, backend, seconds)
    played = at_rate(setup, backend, highest / 2, seconds)
    latencies = [(at - stamp) / 1e6 for frames in played.arrivals.values() for stamp, at in frames]
    intervals = np.concatenate([np.diff([at for _, at in frames]) / 1e6 for frames in played.arrivals.values()])
    times = np.percentile(latencies, (50, 95, 99)) if latencies else [np.nan] * 3
    return [
        str(setup),
        f"{highest:.0f}",
        f"{highest / 2:.0f}",
        *(f"{value:.1f}" for value in (*times, np.std(intervals))),
        f"{played.lost} of {played.sent}",
        f"{np.mean([one.cpu_percent for one in played.usage]):.0f}",
        f"{played.usage[-1].memory_mb:.0f}",
    ]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backend", default="fake", help="of derain_node (default: %(default)s)")
    add("--shapes", type=parse_shape, nargs="+", default=[(360, 640)], metavar="HxW", help="(default: 360x640)")
    add("--seconds", type=float, default=5.0, help="of each rate, 2 or more (default: %(default)s)")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    # Without the profile the raw transport alone, whose messages are large.
    setups = [
        Setup(shape, cameras, transport, profile)
        for profile, transports in ((True, ("raw", "compressed")), (False, ("raw",)))
        for shape, cameras, transport in product(args.shapes, (1, len(CAMERAS)), transports)
    ]
    table = print_table(HEADINGS, (row(setup, args.backend, args.seconds) for setup in setups))
    said = (
        f"{processor_name()}, {os.cpu_count()} cores, load {load:.0f} from other work; backend `{args.backend}`, "
        f"{args.seconds:g} s for each rate. CPU in percent of a core; jitter is the standard deviation of intervals."
    )
    replace("live", f"{said}\n\n{table}")


if __name__ == "__main__":
    main()
