"""``sapnet derain``: images and videos in, derained ones out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sapnet.commands.common import (
    EXIT_PARTIAL,
    add_command,
    add_network_arguments,
    counted,
    counting_bar,
    derainer_from,
    parse_positive,
    parse_whole,
)
from sapnet.errors import SapnetError
from sapnet.images.codecs import JPEG_QUALITY
from sapnet.media.formats import DEFAULT_CRF

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers
    from sapnet.derainer import Derainer
    from sapnet.media.derain import Report

_DESCRIPTION = """\
Derain images and videos.

Folders are searched recursively, without hidden files; OUT keeps their layout and names. Outputs have the size of
their inputs. Inputs are never overwritten, and every output is complete or absent.

Images keep their colour profile, EXIF, alpha and depth (8 or 16 bits) where the output's format can hold them, and are
written upright. Every picture of an animation or a multi-page TIFF is derained. Videos keep their timestamps, pixel
aspect ratio, sound, subtitles and metadata. MP4, MOV and MKV are written as H.264, WebM as VP9.

Exit status: 0, all inputs are derained; 2, some are not; 3, some could be read only in part, and that part is derained.
"""

_EXAMPLES = """\
sapnet derain rainy.png -o derained.png
sapnet derain photos/ extra.jpg -o derained/ --masks
sapnet derain drive.mp4 -o derained/ --weights weights.safetensors
sapnet derain photos/ -o derained/ --overwrite --json > report.json
sapnet derain panorama.tif -o derained.tif --tile 1024
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
        help="output folder, created if missing; or, for one image or video, the output file",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="also write streak masks (0 or 255) as NAME_streak_mask.png, or .mkv (FFV1) for videos",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument(
        "--batch",
        type=parse_positive,
        default=1,
        metavar="N",
        help="frames per batch; more than 1 is faster on a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--quality",
        type=partial(parse_whole, lowest=1, highest=100),
        default=JPEG_QUALITY,
        metavar="Q",
        help="quality of JPEG and WebP, 1 to 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--crf",
        type=partial(parse_whole, lowest=0, highest=51),
        default=DEFAULT_CRF,
        metavar="N",
        help="constant rate factor of H.264, 0 (best) to 51; other codecs get a similar quality (default: %(default)s)",
    )
    parser.add_argument(
        "--tile",
        type=_parse_tile,
        metavar="SIDE",
        help="side in pixels of the overlapping tiles that larger images are derained in; 0 never tiles "
        "(default: tile where memory is short)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_network_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Derain what the arguments name. Raises SapnetError, also where an input could not be derained."""
    from sapnet.media.derain import derain_files
    from sapnet.media.plan import plan_jobs
    from sapnet.media.tiles import Tiler

    jobs = plan_jobs(args.inputs, args.output, masks=args.masks, overwrite=args.overwrite)
    with derainer_from(args) as derainer, counting_bar() as progress:
        tiler = Tiler(derainer, args.tile)
        report = derain_files(tiler, jobs, args.batch, progress, args.quality, args.crf)
    if args.json:
        print(json.dumps(_as_json(report, derainer), indent=2))
    elif report.files:
        print(_summary(report, derainer, args.output))
    damaged = [file for file in report.files if file.damage]
    for file in damaged:
        print(f"sapnet: warning: {file.input} is derained only in part: {file.damage}", file=sys.stderr)
    if report.failed:
        names = ", ".join([*report.failed][:3]) + (", ..." if len(report.failed) > 3 else "")
        raise SapnetError(f"{len(report.failed)} of {counted(report.asked, 'input')} could not be derained: {names}")
    return EXIT_PARTIAL if damaged else 0


def _parse_tile(text: str) -> int:
    from sapnet.media.tiles import MIN_TILE

    if not text.isdecimal() or 0 < int(text) < MIN_TILE:
        raise argparse.ArgumentTypeError(f"expected 0 or at least {MIN_TILE}, got {text!r}")
    return int(text)


def _as_json(report: Report, derainer: Derainer) -> dict[str, object]:
    return {
        "files": [asdict(file) for file in report.files],
        "failed": [{"input": name, "error": error} for name, error in report.failed.items()],
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
