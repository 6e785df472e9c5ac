"""What recordings cost beside the network: ``python benchmarks/recordings.py`` prints a table.

Frames a second of sapnet bag, for raw and compressed images, and of the bare Derainer on the same frames, already
decoded, by turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from timeit import timeit

from tables import print_table

from bag_builders import FRAME_NS, START_NS, compressed, image, smooth_frames, write_bag
from sapnet import Derainer
from sapnet.bags.derain import derain_bag
from sapnet.commands.common import parse_positive, parse_shape

TOPICS = {"raw": (image, "/camera/image_raw"), "compressed": (compressed, "/camera/image_raw/compressed")}


def measure(args: argparse.Namespace, folder: Path) -> None:
    """The bare Derainer, and recordings of both transports."""
    frames = smooth_frames(args.frames, *args.size)
    for kind, (make, topic) in TOPICS.items():
        write_bag(folder / kind, [make(topic, START_NS + n * FRAME_NS, frame) for n, frame in enumerate(frames)])
    outputs = (folder / f"output_{number}" for number in count())
    with Derainer(args.weights, backend=args.backend) as derainer:
        work: dict[str, Callable[[], object]] = {"Derainer": lambda: [derainer([frame]) for frame in frames]}
        work |= {kind: lambda kind=kind: derain_bag(derainer, folder / kind, next(outputs)) for kind in TOPICS}
        derainer(frames[:1])
        turns = [{name: timeit(one, number=1) for name, one in work.items()} for _ in range(args.turns)]
        print(f"{derainer.backend_name} {derainer.precision}, {args.frames} frames, median of {args.turns} turns\n")
    rows = []
    for name in work:
        per_s = args.frames / median(turn[name] for turn in turns)
        rows.append((name, f"{per_s:.2f}", f"{median(turn['Derainer'] / turn[name] for turn in turns):.2f}"))
    print_table(("", "frames/s", "of the Derainer's"), rows)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=parse_positive, default=3)
    parser.add_argument("--size", type=parse_shape, default=(360, 640), metavar="HxW")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--weights", default="sapnet_fast")
    parser.add_argument("--frames", type=parse_positive, default=60)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        measure(args, Path(folder))


if __name__ == "__main__":
    main()
