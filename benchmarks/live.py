"""derain_node over DDS: its highest rate, then latency, jitter, drops, processor time and memory at fixed rates.

    python benchmarks/live.py
    python benchmarks/live.py --backend auto --shapes 240x320 --seconds 20

After ros2_benchmark: a player, derain_node and a monitor, each a process of its own. The highest rate is the one at
which at most 5 % of the frames are lost, found by bisection. Latency is measured at half of it, from the player's stamp
to the arrival of the derained frame of equal stamp, all on this host's clock. Writes benchmarks/results/live.json and
from it the table of docs/benchmarks.md. The backend is fake by default: what is measured is the node.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cameras import CAMERAS, arrivals, isolate, monitoring, playing, running_node, use_profile
from tables import markdown, replace

from sapnet.backends.devices import processor_name
from sapnet.commands.common import parse_shape

RESULTS = Path(__file__).resolve().parent / "results" / "live.json"
MAX_LOSS = 0.05
MAX_RATE_HZ = 240.0
STEPS = 4  # of the bisection
SETTLE_S = 1.0


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    shape: tuple[int, int]
    cameras: int
    transport: str
    profile: bool

    def __str__(self) -> str:
        height, width = self.shape
        return f"{height}x{width}, {self.cameras} x {self.transport}, {'profile' if self.profile else 'no profile'}"


@dataclass(frozen=True)
class Figures:
    """Of one rate. Times from stamp to arrival; jitter_ms: standard deviation of the intervals between arrivals.

    All are 0 where no frame came. cpu_percent: of one core, while frames were played. memory_mb: resident, after them.
    """

    rate_hz: float
    sent: int
    lost: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    jitter_ms: float
    cpu_percent: float
    memory_mb: float

    @property
    def loss(self) -> float:
        """Share of the frames that were sent."""
        return self.lost / self.sent


def at_rate(setup: Setup, backend: str, rate: float, seconds: float) -> Figures:
    """Every process is started anew, so that nothing is left from another rate."""
    names = CAMERAS[: setup.cameras]
    height, width = setup.shape
    compressed = setup.transport == "compressed"
    parameters = [f"backend:={backend}", f"cameras:=[{','.join(names)}]", f"warmup_sizes:=[{height}x{width}]"]
    parameters += [f"image_transport:={setup.transport}", f"publish_compressed:={str(compressed).lower()}"]
    use_profile(setup.profile)
    with (
        running_node(*parameters) as node,
        monitoring(names, setup.transport) as monitor,
        playing(names, setup.shape, rate, seconds, setup.transport) as player,
    ):
        player.recv()
        before_s, _ = usage(node.pid)
        sent, played_s = player.recv()
        time.sleep(SETTLE_S)
        after_s, memory_mb = usage(node.pid)
        came = arrivals(monitor)
    latencies = [(at - stamp) / 1e6 for frames in came.values() for stamp, at in frames]
    intervals = [np.diff([at for _, at in frames]) / 1e6 for frames in came.values() if len(frames) > 1]
    return Figures(
        rate,
        sent,
        sent - len(latencies),
        *(round(float(value), 2) for value in np.percentile(latencies or [0.0], (50, 95, 99))),
        round(float(np.std(np.concatenate(intervals or [[0.0]]))), 2),
        round(100 * (after_s - before_s) / played_s, 1),
        round(memory_mb, 1),
    )


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
        low, high = (rate, high) if at_rate(setup, backend, rate, seconds).loss <= MAX_LOSS else (low, rate)
        rate = 2 * low if high == MAX_RATE_HZ else (low + high) / 2
        rate = min(rate, MAX_RATE_HZ)
    return low


def page(report: dict[str, Any]) -> None:
    """The table."""
    times = {"p50 ms": "p50_ms", "p95": "p95_ms", "p99": "p99_ms", "jitter": "jitter_ms"}
    headings = ["size, cameras, transport", "highest Hz", "at Hz", *times, "lost", "CPU %", "MB"]
    rows = [
        [
            entry["setup"],
            f"{entry['highest_hz']:.0f}",
            f"{figures['rate_hz']:.0f}",
            *(f"{figures[name]:.1f}" for name in times.values()),
            f"{figures['lost']} of {figures['sent']}",
            *(f"{figures[name]:.0f}" for name in ("cpu_percent", "memory_mb")),
        ]
        for entry in report["rows"]
        for figures in entry["rates"]
    ]
    said = (
        f"{report['processor']}, {report['cores']} cores, load {report['load']:.0f} from other work; backend "
        f"`{report['backend']}`, {report['seconds']:g} s for each rate. CPU in percent of a core."
    )
    replace("live", f"{said}\n\n{markdown(headings, rows)}")


def main() -> None:
    """Measure, and write the results and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backend", default="fake", help="of derain_node (default: %(default)s)")
    add("--shapes", type=parse_shape, nargs="+", default=[(360, 640)], metavar="HxW", help="(default: 360x640)")
    add("--cameras", type=int, nargs="+", choices=range(1, 5), default=[1, 4], help="(default: 1 4)")
    add("--transports", nargs="+", choices=("raw", "compressed"), default=["raw", "compressed"])
    add("--rates", type=float, nargs="*", default=[], help="fixed rates in Hz (default: half the highest)")
    add("--seconds", type=float, default=5.0, help="of each rate (default: %(default)s)")
    add("--page", action="store_true", help="write the table again without measuring")
    args = parser.parse_args()
    if not args.page:
        isolate()
        load, rows = os.getloadavg()[0], []
        for setup in setups(args):
            highest = highest_rate(setup, args.backend, args.seconds)
            rates = [
                asdict(at_rate(setup, args.backend, rate, args.seconds)) for rate in args.rates or [highest / 2] if rate
            ]
            rows.append({"setup": str(setup), "highest_hz": highest, "rates": rates})
            print(json.dumps(rows[-1]), flush=True)
        report = {"processor": processor_name(), "cores": os.cpu_count(), "load": load, "backend": args.backend}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({**report, "seconds": args.seconds, "rows": rows}, indent=1) + "\n")
    page(json.loads(RESULTS.read_text()))


def setups(args: argparse.Namespace) -> list[Setup]:
    """All that the arguments ask for; without the profile the raw transport alone, whose messages are large."""
    found = [
        Setup(shape, cameras, transport, True)
        for shape in args.shapes
        for cameras in args.cameras
        for transport in args.transports
    ]
    return found + [Setup(one.shape, one.cameras, "raw", False) for one in found if one.transport == "raw"]


if __name__ == "__main__":
    main()
