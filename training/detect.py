"""Whether deraining helps an object detector: ``python -m training.detect --detector MODEL --clips IN...``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sapnet import Derainer
from sapnet.backends import BACKENDS
from sapnet.backends.base import PRECISIONS
from sapnet.commands.common import parse_positive, progress_bar
from sapnet.errors import SapnetError
from sapnet.files import replacing
from sapnet.media.contact_sheet import contact_sheet
from sapnet.rain import RAIN_PRESETS
from training.detection_experiment import CLEAN, LEGEND, RAINY, Outcome, Setting, run_experiment
from training.detection_metrics import confidence, confidence_of_all, interval, precision, recall, resample, won_back
from training.detector import Detector, Floats

# Fewer leave the figures to chance.
MIN_CLEAN_DETECTIONS = 200

_FIGURES = {
    "recall": recall,
    "precision": precision,
    "confidence": confidence,
    "confidence_of_all": confidence_of_all,
}
_COLUMNS = {
    "recall": "recall",
    "precision": "precision",
    "confidence": "confidence",
    "confidence_of_all": "confidence, 0 if missed",
    "won_back": "lost recall won back",
}

_DESCRIPTION = """\
Puts rain on clean frames, derains them, and lets a detector look at the clean, rainy and derained frames.

Recall is the share of what it finds on the clean frames that it finds again; precision, the share of what it finds
that it also finds on the clean frames; confidence, its mean over what it finds again, and beside it with 0 for what
it misses. An object is found again if one of its class overlaps it by --iou; no object counts twice. Brackets hold
the 95 % bootstrap interval over frames, each drawn with all its seeds.
"""

_EXAMPLES = """\
examples:
  python -m training.detect --detector fastestdet.onnx --names coco.names --clips drive.mp4 photos/ --output out/
  python -m training.detect --detector fastestdet.onnx --clips drive.mp4 --weights sapnet_fast mine.safetensors --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        report = _measure(args)
    except (SapnetError, ValueError) as err:
        print(f"detect: {err}", file=sys.stderr)
        return 2
    if report["clean_detections"] < MIN_CLEAN_DETECTIONS:
        print(
            f"detect: warning: {report['clean_detections']} objects on the clean frames, expected at least "
            f"{MIN_CLEAN_DETECTIONS}; give more clips or a smaller --stride",
            file=sys.stderr,
        )
    print(json.dumps(report, indent=2) if args.json else table(report))
    return 0


def summarise(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Version of the frames -> figure -> its value and 95 % interval, None where they are undefined."""
    pooled = {version: counts.sum(axis=0) for version, counts in outcome.counts.items()}
    resampled = {version: resample(counts) for version, counts in outcome.counts.items()}
    figures: dict[str, dict[str, Any]] = {}
    for version in pooled:
        figures[version] = {
            name: _figure(function(pooled[version]), function(resampled[version]))
            for name, function in _FIGURES.items()
        }
        if version not in (CLEAN, RAINY):
            figures[version]["won_back"] = _figure(
                won_back(pooled[version], pooled[RAINY]), won_back(resampled[version], resampled[RAINY])
            )
    return figures


def table(report: Mapping[str, Any]) -> str:
    """The report as markdown."""
    lines = [
        f"{report['clean_detections']} objects on {report['frames']} clean frames; {report['rain']} rain, "
        f"seeds {', '.join(map(str, report['seeds']))}; confidence {report['confidence']}, IoU {report['iou']}",
        "",
        f"| frames | {' | '.join(_COLUMNS.values())} |",
        "|---" * (1 + len(_COLUMNS)) + "|",
    ]
    for version, figures in report["figures"].items():
        cells = (_cell(figures.get(name)) for name in _COLUMNS)
        lines.append(f"| {version} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    setting = Setting(
        tuple(args.clips), args.rain, tuple(args.seeds), args.stride, args.max_width, args.confidence, args.iou
    )
    detector = Detector(args.detector, args.names)
    if args.output:
        _make_folder(args.output)
    with ExitStack() as stack:
        derainers = {
            name: stack.enter_context(
                Derainer(weights, args.backend, device=args.device, precision=args.precision, stages=args.stages)
            )
            for name, weights in _name_weights(args.weights).items()
        }
        progress = stack.enter_context(progress_bar())
        task = progress.add_task("frames", total=None)
        outcome = run_experiment(
            setting, detector, derainers, lambda done, total: progress.update(task, completed=done, total=total)
        )
    report = _report(setting, args, outcome, derainers)
    if args.output:
        _write(args.output, report, outcome)
    return report


def _report(
    setting: Setting, args: argparse.Namespace, outcome: Outcome, derainers: Mapping[str, Derainer]
) -> dict[str, Any]:
    return {
        "detector": str(args.detector),
        **asdict(setting),
        "clips": [str(clip) for clip in setting.clips],
        "frames": len(outcome.clean_detections),
        "clean_detections": sum(outcome.clean_detections),
        "networks": {
            name: {
                "weights": derainer.weights,
                "stages": derainer.stages,
                "backend": derainer.backend_name,
                "precision": derainer.precision,
            }
            for name, derainer in derainers.items()
        },
        "figures": summarise(outcome),
    }


def _make_folder(folder: Path) -> None:
    """Before the hours that the figures take rather than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise SapnetError(f"{folder} cannot be made a folder to write to: {err.strerror}") from err


def _write(folder: Path, report: Mapping[str, Any], outcome: Outcome) -> None:
    with replacing(folder / "detect.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    first, *others = outcome.labels
    contact_sheet(outcome.pictures, folder / "detect.png", [f"{first}   ({LEGEND})", *others])


def _name_weights(weights: Sequence[str]) -> dict[str, str]:
    """Short names of weights, or what was given where short ones would be equal."""
    stems = [Path(each).stem for each in weights]
    taken = [CLEAN, RAINY, *stems]
    return {each if taken.count(stem) > 1 else stem: each for stem, each in zip(stems, weights, strict=True)}


def _figure(value: Floats, resampled: Floats) -> dict[str, Any]:
    bounds = [None if math.isnan(bound) else bound for bound in interval(resampled)]
    return {"value": None if math.isnan(value) else float(value), "interval": bounds}


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.detect",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--detector", required=True, type=Path, metavar="MODEL", help="ONNX file of FastestDet's layout")
    add("--names", type=Path, metavar="FILE", help="its classes, one per line, for the picture")
    add("--clips", nargs="+", required=True, type=Path, metavar="IN", help="clean videos, images, folders of images")
    add("--weights", nargs="+", default=["sapnet_fast"], metavar="W", help="names or files (default: sapnet_fast)")
    add("--rain", choices=RAIN_PRESETS, default=Setting.rain, help="default: %(default)s")
    add("--seeds", nargs="+", type=int, default=Setting.seeds, metavar="N", help="of the rain (default: 1 2 3)")
    add(
        "--stride",
        type=parse_positive,
        default=Setting.stride,
        metavar="N",
        help="take every Nth frame of videos (default: %(default)s)",
    )
    add(
        "--max-width",
        type=parse_positive,
        default=Setting.max_width,
        metavar="N",
        help="scale wider frames down before it rains",
    )
    add("--confidence", type=float, default=Setting.confidence, help="what counts as detected (default: %(default)s)")
    add("--iou", type=float, default=Setting.iou, help="overlap that makes two objects the same (default: %(default)s)")
    add("--backend", choices=BACKENDS, default="auto", help="default: %(default)s")
    add("--device", default="auto", help="cpu, cuda, cuda:N (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="auto", help="default: %(default)s")
    add("--stages", type=int, default=0, metavar="N", help="recurrences (default: the weights' own)")
    add("--output", type=Path, metavar="DIR", help="write detect.png, a few frames with boxes, and detect.json there")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
