"""Quality against time: our weights with every number of stages, the official SAPNet and PReNet.

    python benchmarks/peers.py --data DATA --official sapnet_wacv2022.pth --prenet net_latest.pdparams

Writes benchmarks/results/peers.json, and from it the table and the plot of docs/benchmarks.md; ``--page`` makes these
anew without measuring. PSNR is on luma, over the first images of each development set. Times are medians on OpenVINO in
the precision that it chooses, in turns with ``sapnet_fast``; rows named eager are torch in fp32, as published.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prenet import load_prenet
from tables import DOCUMENT, markdown, replace

from sapnet import Derainer, SAPNet, load_weights
from sapnet.backends import openvino
from sapnet.backends.base import BackendSpec, Frames
from sapnet.backends.devices import processor_name
from sapnet.bench import Candidate, Contender, Running, Subject, measure
from sapnet.commands.common import parse_positive
from sapnet.config import PRESETS
from sapnet.model import DeployNet

# It is no part of what is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.datasets.paired import find_pairs
from training.scores import Method, score

RESULTS = Path(__file__).resolve().parent / "results" / "peers.json"
PLOT = DOCUMENT.parent / "images" / "peers.svg"
SETS = {"rain100l_dev": "light", "heavy_dev": "heavy"}
SMALL, LARGE = (240, 320), (720, 1280)
REFERENCE = Candidate("sapnet_fast", "openvino")

Infer = Callable[[Frames], Frames]


@dataclass(frozen=True)
class Peer:
    """Another network, plain as it was published. runtime: ``openvino`` or ``torch``, which is eager and in fp32."""

    name: str
    network: SAPNet
    runtime: str

    @contextmanager
    def ready(self) -> Iterator[tuple[Infer, str]]:
        """What derains frames uint8 (B, H, W, 3), and its precision."""
        deploy = DeployNet(self.network).eval()
        if self.runtime == "torch":
            deploy = deploy.to(memory_format=torch.channels_last)

            def eager(frames: Frames) -> Frames:
                with torch.inference_mode():
                    return deploy(torch.from_numpy(frames))[0].numpy()

            yield eager, "fp32"
            return
        precision = openvino.choose_precision(BackendSpec(device="cpu"))
        model, requests = openvino.convert(deploy), {}

        def compiled(frames: Frames) -> Frames:
            if frames.shape not in requests:
                static = model.clone()
                static.reshape(list(frames.shape))
                requests[frames.shape] = openvino.compile_model(static, precision).create_infer_request()
            return requests[frames.shape].infer([frames], share_outputs=False)[0]

        yield compiled, precision

    def run(self, noise: Frames) -> Iterator[Running]:
        """For sapnet.bench."""
        with self.ready() as (infer, precision):
            stages = self.network.config.stages
            subject = Subject(self.name, self.runtime, precision, processor_name(), stages, bound_ms=None)
            yield Running(lambda: infer(noise), subject)


def psnr(derain: Infer, data: Path | None, images: int) -> dict[str, float]:
    """On luma, in dB, the mean over the first images of each set."""
    if data is None:
        return {}

    def one(_: object, rainy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return derain(rainy[None])[0], np.zeros(rainy.shape[:2], np.uint8)

    method = Method("", one)
    return {
        name: round(float(score(method, find_pairs(data / folder)[:images]).figures["psnr_y"]), 2)
        for folder, name in SETS.items()
    }


def ours(preset: str, stages: int, args: argparse.Namespace) -> dict[str, Any]:
    """A row of shipped weights."""
    contender = Candidate(preset, "openvino", stages=stages)
    with closing(Derainer(preset, "openvino", stages=stages)) as derainer:
        quality = psnr(
            lambda frames: np.stack([derainer([frame])[0].image for frame in frames]), args.data, args.images
        )
    is_whole = stages == PRESETS[preset].stages
    return row(preset, stages, load_weights(preset), quality, times(contender, is_whole, args), is_whole)


def theirs(name: str, network: SAPNet, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of another network: on OpenVINO and eager."""
    fast, eager = Peer(name, network, "openvino"), Peer(f"{name}, eager", network, "torch")
    with fast.ready() as (infer, _):
        quality = psnr(infer, args.data, args.images)
    stages = network.config.stages
    return [row(peer.name, stages, network, quality, times(peer, True, args), True) for peer in (fast, eager)]


def row(
    name: str, stages: int, network: SAPNet, quality: dict[str, float], ms: dict[str, dict[str, float]], is_whole: bool
) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(name, stages, quality, ms, flush=True)
    return {"name": name, "stages": stages, "parameters": parameters, "psnr": quality, "ms": ms, "whole": is_whole}


def times(contender: Contender, is_whole: bool, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By size: the median in milliseconds, and its ratio to that of sapnet_fast, which took turns with it."""
    found = {}
    for (height, width), turns in ((SMALL, args.turns), (LARGE, args.large_turns)):
        if turns and (is_whole or args.every_stage or (height, width) == SMALL):
            _, timing = measure([REFERENCE, contender], height, width, frames=turns)
            found[f"{height}x{width}"] = {"ms": timing.p50_ms, "ratio": round(1 / timing.ratio, 3)}
    return found


def page(report: dict[str, Any]) -> None:
    """The table and the plot of a report."""
    sizes = [f"{height}x{width}" for height, width in (SMALL, LARGE)]
    headings = ["network", "stages", "parameters", *(f"{name} rain, dB" for name in SETS.values())]
    headings += [f"time at {size} (sapnet_fast = 1)" for size in sizes]
    rows = []
    for entry in report["rows"]:
        milliseconds = [_say(entry["ms"][size]) if size in entry["ms"] else "" for size in sizes]
        quality = [f"{entry['psnr'][name]:.1f}" if name in entry["psnr"] else "" for name in SETS.values()]
        rows.append([entry["name"], str(entry["stages"]), f"{entry['parameters']:,}", *quality, *milliseconds])
    said = (
        f"{report['processor']}, {report['cores']} cores, load {report['load']:.0f} from other work; PSNR of the first "
        f"{report['images']} images of each set; {report['turns']} turns at {sizes[0]}, {report['large_turns']} at "
        f"{sizes[1]}."
    )
    plot = ""
    if all(entry["psnr"] for entry in report["rows"]):
        draw(report["rows"], sizes[0])
        plot = f"\n\n![PSNR over relative time per frame, for light and heavy rain](images/{PLOT.name})"
    replace("peers", f"{said}\n\n{markdown(headings, rows)}{plot}")


def _say(time: dict[str, float]) -> str:
    return f"{time['ratio']:.2f} ({time['ms']:,.0f} ms)"


def draw(rows: list[dict[str, Any]], size: str) -> None:
    """PSNR over relative time, a panel for each set; stages of one network are joined."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "sapnet"  # the same figures give the same file
    figure, panels = plt.subplots(1, len(SETS), figsize=(9, 4), layout="constrained")
    for panel, kind in zip(panels, SETS.values(), strict=True):
        for name in dict.fromkeys(entry["name"] for entry in rows):
            points = [(e["ms"][size]["ratio"], e["psnr"][kind]) for e in rows if e["name"] == name]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1, label=name)
        label = f"time per frame of {size}, sapnet_fast = 1"
        panel.set(xscale="log", xlabel=label, ylabel="PSNR, dB", title=f"{kind} rain")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    """Measure, and write the results, the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help=f"folder with {' and '.join(SETS)}; without it PSNR is left out")
    add("--official", type=Path, help="the official SAPNet's .pth")
    add("--prenet", type=Path, help="PReNet's .pdparams")
    add("--presets", nargs="+", choices=("sapnet_fast", "sapnet"), default=["sapnet_fast", "sapnet"])
    add("--images", type=parse_positive, default=3, help="of each set (default: %(default)s)")
    add("--turns", type=parse_positive, default=5, help="at the small size (default: %(default)s)")
    add("--large-turns", type=int, default=1, help="at the large size; 0: leave it out (default: %(default)s)")
    add("--every-stage", action="store_true", help="time every number of stages at the large size too")
    add("--page", action="store_true", help="write the table and the plot again without measuring")
    args = parser.parse_args()
    if not args.page:
        load = os.getloadavg()[0]
        rows = [
            ours(preset, stages, args) for preset in args.presets for stages in range(1, PRESETS[preset].stages + 1)
        ]
        if args.official:
            rows += theirs("official SAPNet", load_weights(args.official), args)
        if args.prenet:
            rows += theirs("PReNet", load_prenet(args.prenet), args)
        machine = {"processor": processor_name(), "cores": os.cpu_count(), "load": load}
        settings = {name: getattr(args, name) for name in ("images", "turns", "large_turns")}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({**machine, **settings, "rows": rows}, indent=1) + "\n")
    page(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
