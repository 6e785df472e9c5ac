"""Quality against time: our weights with every number of stages, the official SAPNet and PReNet.

    python benchmarks/peers.py --data DATA --official sapnet_wacv2022.pth --prenet net_latest.pdparams

Writes the table and the plot of docs/benchmarks.md. PSNR is on luma, over the first images of each development set.
Times are medians on OpenVINO in the precision that it chooses, in turns with ``sapnet_fast``; rows named eager are
torch in fp32, as published.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from contenders import eager, on_openvino, plain
from prenet import load_prenet
from tables import DOCUMENT, print_table, replace

from sapnet import Derainer, SAPNet, load_weights
from sapnet.backends.devices import processor_name
from sapnet.commands.bench import Contender, measure, network
from sapnet.commands.common import parse_positive
from sapnet.config import PRESETS
from sapnet.model.deploy import DeployNet
from training.datasets.paired import find_pairs
from training.metrics import Method, score
from training.metrics import network as derained_by

PLOT = DOCUMENT.parent / "images" / "peers.svg"
SETS = {"rain100l_dev": "light", "heavy_dev": "heavy"}
SMALL, LARGE = (240, 320), (720, 1280)
OURS = partial(network, backend="openvino")


class Row(NamedTuple):
    """A network. psnr: of each set. times: median in ms and its ratio to sapnet_fast's, at the small and large size."""

    name: str
    stages: int
    parameters: int
    psnr: list[float]
    times: list[tuple[float, float]]


def quality(method: Method, args: argparse.Namespace) -> list[float]:
    """PSNR on luma in dB, the mean over the first images of each set; none without data."""
    sets = [find_pairs(args.data / name)[: args.images] for name in SETS] if args.data else []
    return [score(method, pairs).figures["psnr_y"] for pairs in sets]


def times(contender: Contender, turns: int, large_turns: int) -> list[tuple[float, float]]:
    """At the small size and, where there are turns, at the large one, in turns with sapnet_fast."""
    found = []
    for (height, width), frames in ((SMALL, turns), (LARGE, large_turns)):
        if frames:
            _, timing = measure([partial(OURS, weights="sapnet_fast"), contender], height, width, frames=frames)
            found.append((timing.p50_ms, 1 / timing.ratio))
    return found


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """Measure every network."""

    def row(name: str, measured: SAPNet, stages: int, psnr: list[float], contender: Contender, large: int) -> Row:
        parameters = sum(parameter.numel() for parameter in measured.parameters())
        return Row(name, stages, parameters, psnr, times(contender, args.turns, large))

    for preset in ("sapnet_fast", "sapnet"):
        for stages in range(1, PRESETS[preset].stages + 1):
            with closing(Derainer(preset, "openvino", stages=stages)) as derainer:
                psnr = quality(derained_by(derainer), args)
            large = args.large_turns if stages == PRESETS[preset].stages else 0
            yield row(preset, load_weights(preset), stages, psnr, partial(OURS, weights=preset, stages=stages), large)
    others = {"official SAPNet": (load_weights, args.official), "PReNet": (load_prenet, args.prenet)}
    for name, (load, path) in others.items():
        if path:
            peer = load(path)
            fast = on_openvino(DeployNet(peer))
            # Without a mask: any plane does for PSNR.
            psnr = quality(Method(name, lambda _, rainy, fast=fast: (fast(rainy[None])[0], rainy[..., 0])), args)
            for label, infer in ((name, fast), (f"{name}, eager", eager(DeployNet(peer)))):
                contender = partial(plain, name=label, infer=infer)
                yield row(label, peer, peer.config.stages, psnr, contender, args.large_turns)


def cells(row: Row) -> list[str]:
    """A row of the table."""
    psnr = [f"{psnr:.1f}" for psnr in row.psnr] or [""] * len(SETS)
    times = [f"{ratio:.2f} ({ms:,.0f} ms)" for ms, ratio in row.times]
    return [row.name, str(row.stages), f"{row.parameters:,}", *psnr, *[*times, ""][:2]]


def draw(found: list[Row], size: str) -> None:
    """PSNR over relative time, a panel for each set; stages of one network are joined."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "sapnet"  # the same figures give the same file
    figure, panels = plt.subplots(1, len(SETS), figsize=(9, 4), layout="constrained")
    for place, (panel, kind) in enumerate(zip(panels, SETS.values(), strict=True)):
        for name in dict.fromkeys(row.name for row in found):
            points = [(row.times[0][1], row.psnr[place]) for row in found if row.name == name]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1, label=name)
        label = f"time per frame of {size}, sapnet_fast = 1"
        panel.set(xscale="log", xlabel=label, ylabel="PSNR, dB", title=f"{kind} rain")
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    """Measure, and write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help=f"folder with {' and '.join(SETS)}; without it PSNR is left out")
    add("--official", type=Path, help="the official SAPNet's .pth")
    add("--prenet", type=Path, help="PReNet's .pdparams")
    add("--images", type=parse_positive, default=3, help="of each set (default: %(default)s)")
    add("--turns", type=parse_positive, default=5, help="at the small size (default: %(default)s)")
    add("--large-turns", type=int, default=1, help="at the large size; 0: leave it out (default: %(default)s)")
    args = parser.parse_args()
    load, found = os.getloadavg()[0], list[Row]()
    small, large = (f"{height}x{width}" for height, width in (SMALL, LARGE))
    headings = ["network", "stages", "parameters", *(f"{name} rain, dB" for name in SETS.values())]
    headings += [f"time at {size} (sapnet_fast = 1)" for size in (small, large)]

    def measured() -> Iterator[list[str]]:
        for row in rows(args):
            found.append(row)
            yield cells(row)

    table = print_table(headings, measured())
    said = (
        f"{processor_name()}, {os.cpu_count()} cores, load {load:.0f} from other work; PSNR of the first "
        f"{args.images} images of each set; {args.turns} turns at {small}, {args.large_turns} at {large}."
    )
    plot = ""
    if args.data:
        draw(found, small)
        plot = f"\n\n![PSNR over relative time per frame, for light and heavy rain](images/{PLOT.name})"
    replace("peers", f"{said}\n\n{table}{plot}")


if __name__ == "__main__":
    main()
