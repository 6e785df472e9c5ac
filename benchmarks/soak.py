"""Four cameras for a long time: ``python benchmarks/soak.py --minutes 10`` (``make soak``).

Two loads that must be carried whole, sent = received = derained + passed through + dropped, without the process
growing, with queues that outlast a moment in which the machine is busy elsewhere; then one, with the node's own queues
of five, that shows what the machine carries. Prints a table and draws memory, threads and processor time;
exits with 1 where something that must hold does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import rclpy
from cameras import CAMERAS, DEPTH, Watch, beside, isolate, monitor, play, running_node
from sensor_msgs.msg import Image
from tables import print_head, print_row

MB_PER_MINUTE = 1.0
WARM_UP_SHARE = 0.25
MIN_SLOPE_S = 60.0  # of figures after the warm-up, below which their slope says nothing
COUNTS = ("received", "derained", "passed_through", "dropped", "lost_in_transport", "in_flight")


@dataclass(frozen=True)
class Load:
    """Frames of four cameras. whole: every one must arrive and be accounted for."""

    shape: tuple[int, int]
    rate: float
    whole: bool

    def __str__(self) -> str:
        return f"4 x {self.rate:g} Hz, {self.shape[0]}x{self.shape[1]}"


LOADS = (Load((360, 640), 10, True), Load((240, 320), 30, True), Load((360, 640), 30, False))


@dataclass(frozen=True)
class Usage:
    """Of derain_node's process at one moment, ``seconds`` after the load began."""

    seconds: float
    memory_mb: float
    threads: float
    cpu_percent: float


def run(load: Load, seconds: float) -> tuple[dict[str, int], list[Usage]]:
    """Counts over all cameras, and what the process took second by second."""
    height, width = load.shape
    watch, usage = Watch(), list[Usage]()
    parameters = ["backend:=fake", f"cameras:=[{','.join(CAMERAS)}]", f"warmup_sizes:=[{height}x{width}]"]
    if load.whole:
        parameters += [f"qos_overrides./{camera}/image.subscription.depth:={DEPTH}" for camera in CAMERAS]
    with (
        running_node(*parameters),
        beside(monitor, CAMERAS, Image, True),
        beside(play, CAMERAS, load.shape, load.rate, seconds) as player,
    ):
        player.recv()
        begin_s = time.monotonic()
        while not player.poll():
            watch.spin_for(1.0)
            values = watch.statuses.get("process")
            if values:
                figures = (float(values[name]) for name in ("memory_mb", "threads", "cpu_percent"))
                usage.append(Usage(time.monotonic() - begin_s, *figures))
        sent, _ = player.recv()
        watch.spin_for(3.0)
    counts = {name: sum(watch.count(camera, name) for camera in CAMERAS) for name in COUNTS}
    watch.destroy_node()
    return {"sent": sent, **counts}, usage


def problems(load: Load, counts: dict[str, int], usage: list[Usage]) -> list[str]:
    """What does not hold."""
    found = []
    fates = counts["derained"] + counts["passed_through"] + counts["dropped"] + counts["in_flight"]
    if counts["received"] != fates or counts["in_flight"]:
        found.append(f"received {counts['received']}, but {fates} are accounted for, {counts['in_flight']} as open")
    if load.whole and counts["sent"] != counts["received"]:
        found.append(f"sent {counts['sent']}, received {counts['received']}")
    if load.whole and slope(usage) > MB_PER_MINUTE:
        found.append(f"memory grows by {slope(usage):.2f} MB a minute")
    return found


def slope(usage: list[Usage]) -> float:
    """MB a minute after the warm-up, the median over all pairs of moments; 0 where there is too little to tell.

    The heap grows by steps of megabytes: a single one is no slope, by which least squares would call it 2 MB a minute.
    """
    late = usage[int(WARM_UP_SHARE * len(usage)) :]
    if not late or late[-1].seconds - late[0].seconds < MIN_SLOPE_S:
        return 0.0
    pairs = combinations(late, 2)
    return 60 * float(np.median([(b.memory_mb - a.memory_mb) / (b.seconds - a.seconds) for a, b in pairs]))


def draw(usages: dict[str, list[Usage]], path: Path) -> None:
    """Memory, threads and processor time over time, a row for each load."""
    import matplotlib.pyplot as plt

    names = {"memory_mb": "memory, MB", "threads": "threads", "cpu_percent": "CPU, % of a core"}
    figure, rows = plt.subplots(len(usages), len(names), figsize=(12, 3 * len(usages)), layout="constrained")
    for panels, (load, usage) in zip(rows, usages.items(), strict=True):
        for panel, (name, label) in zip(panels, names.items(), strict=True):
            panel.plot([one.seconds for one in usage], [getattr(one, name) for one in usage])
            panel.set(title=f"{load}: {label}", xlabel="s", ylim=(0, None))
    figure.savefig(path)


def main() -> None:
    """Run the loads one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of all loads together (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="PNG of memory, threads and processor time")
    args = parser.parse_args()
    isolate()
    rclpy.init()
    found, usages = [], {}
    print_head("load", "sent", *COUNTS, "MB/min", "CPU %", "threads")
    for load in LOADS:
        counts, usages[str(load)] = run(load, 60 * args.minutes / len(LOADS))
        usage = usages[str(load)]
        cpu, threads = (
            f"{np.median([getattr(one, name) for one in usage]):.0f}" for name in ("cpu_percent", "threads")
        )
        print_row(str(load), *map(str, counts.values()), f"{slope(usage):.2f}", cpu, threads)
        found += [f"{load}: {problem}" for problem in problems(load, counts, usage)]
    if args.picture:
        draw(usages, args.picture)
    rclpy.try_shutdown()
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main()
