"""Four cameras for a long time: ``python benchmarks/soak.py --minutes 10`` (``make soak``).

Two loads that must be carried whole, sent = received = derained + passed through + dropped, without the process
growing, with queues that outlast a moment in which the machine is busy elsewhere; then one, with the node's own queues
of five, that shows what the machine carries. Prints a table and draws memory, threads and processor time;
exits with 1 where something that must hold does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cameras import CAMERAS, COUNTS, DEPTH, Usage, run
from scipy.stats import theilslopes
from tables import print_table

MB_PER_MINUTE = 1.0
WARM_UP_SHARE = 0.25
MIN_SLOPE_S = 60.0  # of figures after the warm-up, below which their slope says nothing
SETTLE_S = 3.0  # for the diagnostics that count the last frames


@dataclass(frozen=True)
class Load:
    """Frames of four cameras. whole: every one must arrive and be accounted for."""

    shape: tuple[int, int]
    rate: float
    whole: bool

    def __str__(self) -> str:
        return f"4 x {self.rate:g} Hz, {self.shape[0]}x{self.shape[1]}"


LOADS = (Load((360, 640), 10, True), Load((240, 320), 30, True), Load((360, 640), 30, False))


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
    return 60 * float(theilslopes([one.memory_mb for one in late], [one.seconds for one in late]).slope)


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
    found: list[str] = []
    usages: dict[str, list[Usage]] = {}

    def rows() -> Iterator[list[str]]:
        for load in LOADS:
            parameters = ["backend:=fake"]
            if load.whole:
                parameters += [f"qos_overrides./{name}/image.subscription.depth:={DEPTH}" for name in CAMERAS]
            seconds = 60 * args.minutes / len(LOADS)
            played = run(CAMERAS, load.shape, load.rate, seconds, *parameters, masks=True, settle_s=SETTLE_S)
            counts, usage = {"sent": played.sent, **played.counts}, played.usage
            usages[str(load)] = usage
            found.extend(f"{load}: {problem}" for problem in problems(load, counts, usage))
            cpu, threads = (np.median([getattr(one, name) for one in usage]) for name in ("cpu_percent", "threads"))
            yield [str(load), *map(str, counts.values()), f"{slope(usage):.2f}", f"{cpu:.0f}", f"{threads:.0f}"]

    print_table(("load", "sent", *COUNTS, "MB/min", "CPU %", "threads"), rows())
    if args.picture:
        draw(usages, args.picture)
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main()
