"""``sapnet derain``: images and videos in, derained ones out."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sapnet.commands.common import (
    add_command,
    add_network_arguments,
    counted,
    counting_bar,
    derainer_from,
    parse_positive,
)
from sapnet.errors import SapnetError

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers
    from sapnet.derainer import Derainer
    from sapnet.media.derain import Report

_DESCRIPTION = """\
Derain images and videos.

A folder is searched through all its subfolders, hidden files left out; OUT keeps its layout and names. Outputs have
the size of their inputs. Images are read upright (as EXIF says) and written as 8-bit colour, without alpha and
metadata: JPEG at quality 95, other formats as OpenCV writes them. Videos keep their frame rate and lose their sound.

Inputs are never overwritten. Each file appears whole or not at all. An input that cannot be read is reported, the
others are derained, and the exit status is 2.
"""

_EXAMPLES = """\
sapnet derain rainy.png -o derained.png
sapnet derain photos/ extra.jpg -o derained/ --masks
sapnet derain drive.mp4 -o derained/ --weights weights.safetensors
sapnet derain photos/ -o derained/ --overwrite --json > report.json
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet derain``."""
    parser = add_command(subparsers, "derain", "derain images and videos", _EXAMPLES, _DESCRIPTION)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="image, video or folder of them")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help="folder, made if missing; or, for one image or video, a file of that kind",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="write streak masks, 0 or 255, beside the outputs: NAME_streak_mask.png, of videos .mkv (FFV1)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument(
        "--batch",
        type=parse_positive,
        default=1,
        metavar="N",
        help="frames in memory at a time; equal sizes are derained together, which pays on a GPU (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_network_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Derain what the arguments name. Raises SapnetError, also where an input could not be read."""
    from sapnet.media.derain import derain_files
    from sapnet.media.plan import plan_jobs

    jobs = plan_jobs(args.inputs, args.output, masks=args.masks, overwrite=args.overwrite)
    with derainer_from(args) as derainer, counting_bar() as progress:
        report = derain_files(derainer, jobs, args.batch, progress)
    if args.json:
        print(json.dumps(_as_json(report, derainer), indent=2))
    elif report.files:
        print(_summary(report, derainer, args.output))
    if report.failed:
        raise SapnetError(_say_failed(report))
    return 0


def _as_json(report: Report, derainer: Derainer) -> dict[str, object]:
    return {
        "files": [asdict(file) for file in report.files],
        "failed": [asdict(failure) for failure in report.failed],
        "frames": report.frames,
        "seconds": round(report.seconds, 3),
        "fps": round(report.fps, 2),
        "weights": derainer.weights,
        "stages": derainer.stages,
        "backend": derainer.backend_name,
        "precision": derainer.precision,
        "device": derainer.device,
    }


def _summary(report: Report, derainer: Derainer, output: Path) -> str:
    return (
        f"derained {counted(len(report.files), 'file')}, {counted(report.frames, 'frame')} in {report.seconds:.1f} s "
        f"({report.fps:.1f} frames/s, {derainer.backend_name} {derainer.precision}): {output}"
    )


def _say_failed(report: Report) -> str:
    names = ", ".join(failure.input for failure in report.failed[:3])
    more = ", ..." if len(report.failed) > 3 else ""
    return f"{len(report.failed)} of {counted(report.asked, 'input')} could not be read: {names}{more}"
