"""Whether deraining helps an object detector: ``python -m training.detect --detector MODEL --clips IN...``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from sapnet.commands.common import derainer_from, parse_positive, parse_whole, progress_bar
from sapnet.media.contact_sheet import contact_sheet
from sapnet.rain import RAIN_PRESETS
from training.commands import add_networks, make_parser, one_line_errors, parse_picture, table
from training.datasets.paired import short_names
from training.detection import CLEAN, CONFIDENCE, IOU, RAINY, Setting, run_experiment, summarise
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
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = _parser().parse_args(argv)
    report = _measure(args)
    if report["clean_detections"] < MIN_CLEAN_DETECTIONS:
        print(
            f"detect: warning: {report['clean_detections']} objects on the clean frames, expected at least "
            f"{MIN_CLEAN_DETECTIONS}; give more clips or a smaller --stride",
            file=sys.stderr,
        )
    print(json.dumps(report, indent=2) if args.json else _describe(report))
    return 0


def _describe(report: Mapping[str, Any]) -> str:
    """The report as markdown."""
    setting = (
        f"{report['clean_detections']} objects on {report['frames']} clean frames; {report['rain']} rain, "
        f"seeds {', '.join(map(str, report['seeds']))}"
    )
    rows = [
        [version, *(_cell(**figures.get(name, {})) for name in _COLUMNS)]
        for version, figures in report["figures"].items()
    ]
    return f"{setting}\n\n{table(['frames', *_COLUMNS.values()], rows)}"


def _cell(value: float | None = None, interval: Sequence[float] = ()) -> str:
    return "-" if value is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    setting = Setting(tuple(args.clips), args.rain, tuple(args.seeds), args.stride, args.max_width)
    detector = Detector(args.detector)
    names = short_names([CLEAN, RAINY, *args.weights])
    with ExitStack() as stack:
        derainers = {names[given]: stack.enter_context(derainer_from(args, weights=given)) for given in args.weights}
        progress = stack.enter_context(progress_bar())
        task = progress.add_task("frames", total=None)
        outcome = run_experiment(
            setting, detector, derainers, lambda done, total: progress.update(task, completed=done, total=total)
        )
    if args.picture:
        contact_sheet([row for _, row in outcome.pictures], args.picture, [label for label, _ in outcome.pictures])
    shown = ("weights", "stages", "backend_name", "precision")
    return {
        "detector": str(args.detector),
        **vars(setting),
        "clips": [str(clip) for clip in setting.clips],
        "frames": len(outcome.expected),
        "clean_detections": sum(outcome.expected),
        "networks": {name: {key: getattr(one, key) for key in shown} for name, one in derainers.items()},
        "figures": summarise(outcome.counts),
    }


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("detect", _DESCRIPTION, _EXAMPLES)
    add_networks(parser, default=["sapnet_fast"])
    seed = partial(parse_whole, lowest=0)
    default = "(default: %(default)s)"
    add = parser.add_argument
    add("--detector", required=True, type=Path, metavar="MODEL", help="ONNX file of FastestDet's layout")
    add("--clips", nargs="+", required=True, type=Path, metavar="IN", help="clean videos, images, folders of images")
    add("--rain", choices=RAIN_PRESETS, default=Setting.rain, help=default)
    add("--seeds", nargs="+", type=seed, default=Setting.seeds, metavar="N", help="of the rain (default: 1 2 3)")
    stride = f"take every Nth frame of videos {default}"
    add("--stride", type=parse_positive, default=Setting.stride, metavar="N", help=stride)
    width = "scale wider frames down first"
    add("--max-width", type=parse_positive, default=Setting.max_width, metavar="N", help=width)
    picture = "write a few frames: found again green, missed red, new yellow"
    add("--picture", type=parse_picture, metavar="PNG", help=picture)
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
