"""Whether deraining helps an object detector: ``python -m training.detect --detector MODEL --clips IN...``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sapnet.commands.common import derainer_from, parse_positive, parse_whole, progress_bar
from sapnet.media.contact_sheet import contact_sheet
from sapnet.rain import RAIN_PRESETS
from training.commands import add_networks, make_parser, one_line_errors, parse_picture, table
from training.datasets.paired import short_names
from training.detection import CLEAN, CONFIDENCE, IOU, RAINY, clean_frames, run_experiment, summarise
from training.detector import Detector

# Fewer leave the figures to chance.
MIN_CLEAN_DETECTIONS = 200

_COLUMNS = {
    "recall": "recall",
    "precision": "precision",
    "confidence": "confidence",
    "won_back": "lost recall won back",
}

_DESCRIPTION = f"""\
Puts rain on clean frames, derains them, and lets a detector look at the clean, rainy and derained frames.

Recall is the share of what it finds on the clean frames that it finds again; precision, the share of what it finds
that it also finds on the clean frames; confidence, its mean over what it finds again. An object, of confidence
{CONFIDENCE} or more, is found again if one of its class overlaps it by an IoU of {IOU}; no object counts twice.
Brackets hold the 95 % bootstrap interval over frames, each drawn with all its seeds.
"""

_EXAMPLES = """\
examples:
  python -m training.detect --detector fastestdet.onnx --clips drive.mp4 photos/ --picture detect.png
  python -m training.detect --detector fastestdet.onnx --clips drive.mp4 --weights sapnet_fast mine.safetensors --json
"""


@one_line_errors("detect")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    args = _parser().parse_args(argv)
    names = short_names([CLEAN, RAINY, *args.weights])
    with ExitStack() as stack:
        detector = Detector(args.detector)
        derainers = {names[given]: stack.enter_context(derainer_from(args, weights=given)) for given in args.weights}
        progress = stack.enter_context(progress_bar())
        task = progress.add_task("frames", total=None)
        outcome = run_experiment(
            partial(clean_frames, args.clips, args.stride, args.max_width),
            detector,
            derainers,
            args.rain,
            args.seeds,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if args.picture:
        contact_sheet([row for _, row in outcome.pictures], args.picture, [label for label, _ in outcome.pictures])
    clean, figures = sum(outcome.expected), summarise(outcome.counts)
    if clean < MIN_CLEAN_DETECTIONS:
        print(
            f"detect: warning: {clean} objects on the clean frames, expected at least {MIN_CLEAN_DETECTIONS}; "
            "give more clips or a smaller --stride",
            file=sys.stderr,
        )
    if args.json:
        networks = {
            name: {key: getattr(derainer, key) for key in ("weights", "stages", "backend_name", "precision")}
            for name, derainer in derainers.items()
        }
        report = {
            "detector": str(args.detector),
            "clips": [str(clip) for clip in args.clips],
            **{name: getattr(args, name) for name in ("rain", "seeds", "stride", "max_width")},
            "frames": len(outcome.expected),
            "clean_detections": clean,
            "networks": networks,
            "figures": figures,
        }
        print(json.dumps(report, indent=2))
    else:
        seeds = ", ".join(map(str, args.seeds))
        print(f"{clean} objects on {len(outcome.expected)} clean frames; {args.rain} rain, seeds {seeds}\n")
        rows = [[name, *(_cell(**of_name.get(key, {})) for key in _COLUMNS)] for name, of_name in figures.items()]
        print(table(["frames", *_COLUMNS.values()], rows))
    return 0


def _cell(value: float | None = None, interval: Sequence[float] = ()) -> str:
    return "-" if value is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("detect", _DESCRIPTION, _EXAMPLES)
    add_networks(parser, default=["sapnet_fast"])
    seed = partial(parse_whole, lowest=0)
    default = "(default: %(default)s)"
    add = parser.add_argument
    add("--detector", required=True, type=Path, metavar="MODEL", help="ONNX file of FastestDet's layout")
    add("--clips", nargs="+", required=True, type=Path, metavar="IN", help="clean videos, images, folders of images")
    add("--rain", choices=RAIN_PRESETS, default="heavy", help=default)
    add("--seeds", nargs="+", type=seed, default=[1, 2, 3], metavar="N", help="of the rain (default: 1 2 3)")
    stride = f"take every Nth frame of videos {default}"
    add("--stride", type=parse_positive, default=4, metavar="N", help=stride)
    width = "scale wider frames down first"
    add("--max-width", type=parse_positive, default=0, metavar="N", help=width)
    picture = "write a few frames: found again green, missed red, new yellow"
    add("--picture", type=parse_picture, metavar="PNG", help=picture)
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
