"""``sapnet derain``: images and videos in, derained ones out."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from sapnet.commands.common import (
    EXIT_PARTIAL,
    Subparsers,
    add_command,
    add_network_arguments,
    counted,
    derainer_from,
    number,
    parse_positive,
    progress_bar,
    whole_number,
)
from sapnet.errors import SapnetError
from sapnet.images.codecs import JPEG_QUALITY
from sapnet.media.formats import DEFAULT_CRF
from sapnet.media.tiles import MIN_TILE, Tiler

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
    add, default = parser.add_argument, "(default: %(default)s)"
    add("inputs", nargs="+", type=Path, metavar="IN", help="image, video or folder of them")
    output = "output folder, created if missing; or, for one image or video, the output file"
    add("-o", "--output", required=True, type=Path, metavar="OUT", help=output)
    masks = "also write streak masks (0 or 255) as NAME_streak_mask.png, or .mkv (FFV1) for videos"
    add("--masks", action="store_true", help=masks)
    add("--overwrite", action="store_true", help="replace existing outputs")
    batch = f"frames per batch; more than 1 is faster on a GPU {default}"
    add("--batch", type=parse_positive, default=1, metavar="N", help=batch)
    quality = f"quality of JPEG and WebP, 1 to 100 {default}"
    add("--quality", type=whole_number(1, 100), default=JPEG_QUALITY, metavar="Q", help=quality)
    crf = f"constant rate factor of H.264, 0 (best) to 51; other codecs get a similar quality {default}"
    add("--crf", type=whole_number(0, 51), default=DEFAULT_CRF, metavar="N", help=crf)
    side = number(int, f"0 or at least {MIN_TILE}", lambda side: side == 0 or side >= MIN_TILE)
    tile = "side in pixels of the overlapping tiles that larger images are derained in; 0 never tiles"
    add("--tile", type=side, metavar="SIDE", help=f"{tile} (default: tile where memory is short)")
    add("--json", action="store_true", help="print the report as JSON")
    add_network_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Derain what the arguments name. Raises SapnetError, also where an input could not be derained."""
    from sapnet.media.derain import derain_files, plan_jobs

    jobs = plan_jobs(args.inputs, args.output, masks=args.masks, overwrite=args.overwrite)
    with derainer_from(args) as derainer, progress_bar(counts=True) as progress:
        tiler, started = Tiler(derainer, args.tile), time.monotonic()
        derain_files(tiler, jobs, args.batch, progress, args.quality, args.crf)
        seconds = time.monotonic() - started
    failed, done = [job for job in jobs if job.error], [job for job in jobs if not job.error]
    if failed and len(jobs) == 1:
        raise SapnetError(failed[0].error)
    frames = sum(job.frames for job in done)
    if args.json:
        figures = {
            "files": [{key: value for key, value in asdict(job).items() if key != "error"} for job in done],
            "failed": [{"input": job.input, "error": job.error} for job in failed],
            "frames": frames,
            "seconds": round(seconds, 3),
            "fps": round(frames / seconds, 2),
            **derainer.facts,
        }
        print(json.dumps(figures, indent=2, default=str))
    elif done:
        print(
            f"derained {counted(len(done), 'file')}, {counted(frames, 'frame')} in {seconds:.1f} s "
            f"({frames / seconds:.1f} frames/s, {derainer.backend_name} {derainer.precision}): {args.output}"
        )
    if failed:
        names = ", ".join(str(job.input) for job in failed[:3]) + (", ..." if len(failed) > 3 else "")
        raise SapnetError(f"{len(failed)} of {counted(len(jobs), 'input')} could not be derained: {names}")
    return EXIT_PARTIAL if any(job.damage for job in done) else 0
