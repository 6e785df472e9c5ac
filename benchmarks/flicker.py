"""Does derained video flicker? ``python benchmarks/flicker.py drive.mp4`` prints a table.

Every frame of a clean clip gets heavy rain of its own. Where the clean clip stands still from one frame to the next,
the mean absolute difference between consecutive frames (0 to 255, all channels) is compared: of the clean clip itself,
of the rainy one, and of the derained one with several values of derain_node's ``steadiness``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from tables import print_table

from sapnet import Derainer
from sapnet.media.sequence import RainySequence
from sapnet.steadiness import Steadier

STILL = 2  # largest difference of any channel between clean frames that stand still there
STEADINESS = (0.0, 0.33, 0.5, 0.67)

Clip = list[np.ndarray]


def steady(clip: Clip, share: float) -> Clip:
    """The clip as derain_node publishes it with ``steadiness``."""
    steadier = Steadier()
    return [steadier(frame, share) for frame in clip]


def flicker(clip: Clip, still: list[np.ndarray]) -> float:
    """Mean absolute difference of consecutive frames where ``still``."""
    pairs = zip(pairwise(clip), still, strict=True)
    return float(np.mean([cv2.absdiff(before, after)[where].mean() for (before, after), where in pairs]))


def rows(args: argparse.Namespace) -> Iterator[list[str]]:
    """Measure every clip with every weights."""
    for path in args.clips:
        frames = list(RainySequence(path, args.rain, args.frames, args.width))
        rainy, clean = [frame.rainy for frame in frames], [frame.clean for frame in frames if frame.clean is not None]
        still = [cv2.absdiff(a, b).max(axis=2) <= STILL for a, b in pairwise(clean)]
        clips = {"clean": clean, "rainy": rainy}
        for weights in args.weights:
            with Derainer(weights) as derainer:
                derained = [derainer([frame])[0].image for frame in rainy]
            clips |= {f"{weights}, steadiness {share:g}": steady(derained, share) for share in STEADINESS}
        for name, clip in clips.items():
            psnr = np.mean([cv2.PSNR(one, two) for one, two in zip(clip, clean, strict=True)])
            said = "-" if clip is clean else f"{psnr:.2f}"
            yield [path.name, f"{np.mean(still):.0%}", name, f"{flicker(clip, still):.2f}", said]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--weights", nargs="+", default=["sapnet_fast"])
    parser.add_argument("--rain", default="heavy")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--width", type=int, default=480)
    print_table(("clip", "still", "frames", "flicker", "PSNR, dB"), rows(parser.parse_args()))


if __name__ == "__main__":
    main()
