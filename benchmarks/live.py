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
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cameras import CAMERAS, beside, isolate, monitor, play, running_node, use_profile
from sensor_msgs.msg import CompressedImage, Image
from tables import replace

from sapnet.backends.devices import processor_name
from sapnet.commands.common import parse_shape
from training.commands import table

MAX_LOSS = 0.05
MAX_RATE_HZ = 240.0
STEPS = 4  # of the bisection
SETTLE_S = 1.0


class Setup(NamedTuple):
    """What is measured. profile: whether the Fast DDS profile of the launch files is used."""

    shape: tuple[int, int]
    cameras: int
    transport: str
    profile: bool

    def __str__(self) -> str:
        height, width = self.shape
        return f"{height}x{width}, {self.cameras} x {self.transport}, {'profile' if self.profile else 'no profile'}"


class Figures(NamedTuple):
    """Of one rate. latencies_ms: from stamp to arrival. jitter_ms: standard deviation of the times between arrivals.

    cpu_percent: of one core, while frames were played. memory_mb: resident, after them.
    """

    sent: int
    latencies_ms: list[float]
    jitter_ms: float
    cpu_percent: float
    memory_mb: float

    @property
    def lost(self) -> int:
        """Frames that did not arrive."""
        return self.sent - len(self.latencies_ms)


def at_rate(setup: Setup, backend: str, rate: float, seconds: float) -> Figures:
    """Every process is started anew, so that nothing is left from another rate."""
    names = CAMERAS[: setup.cameras]
    height, width = setup.shape
    kind = CompressedImage if setup.transport == "compressed" else Image
    parameters = [f"backend:={backend}", f"cameras:=[{','.join(names)}]", f"warmup_sizes:=[{height}x{width}]"]
    parameters += [f"image_transport:={setup.transport}", f"publish_compressed:={str(kind is not Image).lower()}"]
    use_profile(setup.profile)
    with (
        running_node(*parameters) as node,
        beside(monitor, names, kind) as arrivals,
        beside(play, names, setup.shape, rate, seconds, kind) as player,
    ):
        player.recv()
        before_s, _ = usage(node.pid)
        sent, played_s = player.recv()
        time.sleep(SETTLE_S)
        after_s, memory_mb = usage(node.pid)
        arrivals.send("end")
        came: dict[str, list[tuple[int, int]]] = arrivals.recv()
    latencies = [(at - stamp) / 1e6 for frames in came.values() for stamp, at in frames]
    intervals = np.concatenate([np.diff([at for _, at in frames]) / 1e6 for frames in came.values()])
    return Figures(sent, latencies, float(np.std(intervals)), 100 * (after_s - before_s) / played_s, memory_mb)


def usage(process: int) -> tuple[float, float]:
    """Seconds of processor time that a process has used, and the megabytes that it holds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    user, system, pages = int(fields[11]), int(fields[12]), int(fields[21])
    return (user + system) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def highest_rate(setup: Setup, backend: str, seconds: float) -> float:
    """In Hz, of each camera; 0 where even one frame a second is too much."""
    low, high = 0.0, MAX_RATE_HZ
    rate = 30.0
    for _ in range(STEPS):
        figures = at_rate(setup, backend, rate, seconds)
        low, high = (rate, high) if figures.lost <= MAX_LOSS * figures.sent else (low, rate)
        rate = 2 * low if high == MAX_RATE_HZ else (low + high) / 2
        rate = min(rate, MAX_RATE_HZ)
    return low


def row(setup: Setup, backend: str, seconds: float) -> list[str]:
    """The cells of a table's row."""
    highest = highest_rate(setup, backend, seconds)
    figures = at_rate(setup, backend, highest / 2, seconds)
    times = np.percentile(figures.latencies_ms, (50, 95, 99)) if figures.latencies_ms else [np.nan] * 3
    return [
        str(setup),
        f"{highest:.0f}",
        f"{highest / 2:.0f}",
        *(f"{value:.1f}" for value in (*times, figures.jitter_ms)),
        f"{figures.lost} of {figures.sent}",
        f"{figures.cpu_percent:.0f}",
        f"{figures.memory_mb:.0f}",
    ]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backend", default="fake", help="of derain_node (default: %(default)s)")
    add("--shapes", type=parse_shape, nargs="+", default=[(360, 640)], metavar="HxW", help="(default: 360x640)")
    add("--seconds", type=float, default=5.0, help="of each rate (default: %(default)s)")
    args = parser.parse_args()
    isolate()
    load, rows = os.getloadavg()[0], []
    # Without the profile the raw transport alone, whose messages are large.
    for profile, transports in ((True, ("raw", "compressed")), (False, ("raw",))):
        for setup in product(args.shapes, (1, len(CAMERAS)), transports, (profile,)):
            rows.append(row(Setup(*setup), args.backend, args.seconds))
            print(*rows[-1], flush=True)
    said = (
        f"{processor_name()}, {os.cpu_count()} cores, load {load:.0f} from other work; backend `{args.backend}`, "
        f"{args.seconds:g} s for each rate. CPU in percent of a core."
    )
    headings = (
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
    replace("live", f"{said}\n\n{table(headings, rows)}")


if __name__ == "__main__":
    main()
