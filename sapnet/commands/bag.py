"""``sapnet bag``: a recording in, a copy with its cameras derained out."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sapnet.bags.cameras import CODECS, BagOptions
from sapnet.bags.recording import STORAGES
from sapnet.commands.common import (
    EXIT_PARTIAL,
    Subparsers,
    add_command,
    add_network_arguments,
    derainer_from,
    parse_positive,
    parse_seconds,
    progress_bar,
    whole_number,
)

if TYPE_CHECKING:
    from sapnet.bags.report import BagReport, CameraReport

_DESCRIPTION = """\
Derain the cameras of a recording.

IN is a rosbag2 folder (sqlite3 or mcap, split, compressed), one of its files, or a ROS 1 bag. OUT is a rosbag2 folder
with a copy of everything in IN, and for each color camera derained/image, derained/camera_info and streak_mask/image
beside the source's topic, at the source's log times. A CompressedImage becomes a CompressedImage.

IN is never changed. OUT appears whole or not at all: unfinished output is in OUT.partial, and --resume continues it.
An image that cannot be read is copied and counted.

Exit status: 0 if all of IN was read, 2 on wrong usage or unreadable input, 3 if only a part of IN could be read
(damaged, cut off, a file missing): OUT holds that part.
"""


_EXAMPLES = """\
sapnet bag drive/ -o derained/
sapnet bag drive.mcap -o derained/ --topic /front/image_raw --replace
sapnet bag drive/ -o minute/ --start 60 --duration 60 --report report.html
sapnet bag old.bag -o derained/ --compressed jpeg --only-derained
sapnet bag drive/ -o derained/ --resume
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet bag``."""
    parser = add_command(subparsers, "bag", "derain the cameras of a recording", _EXAMPLES, _DESCRIPTION)
    add = parser.add_argument
    add("input", type=Path, metavar="IN", help="rosbag2 folder or file, or ROS 1 bag")
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="folder to create")
    add_bag_arguments(parser)
    seconds: dict[str, Any] = {"type": parse_seconds, "default": 0.0, "metavar": "S"}
    add("--start", dest="start_s", **seconds, help="skip the first S seconds")
    add("--duration", dest="duration_s", **seconds, help="stop after S seconds; 0: never")
    add("--report", type=Path, metavar="HTML", help="write a report with samples, scores and latency")
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--overwrite", action="store_true", help="replace OUT, or what an interrupted run left of it")
    add("--json", action="store_true", help="print the report as JSON")
    add_network_arguments(parser)
    return parser


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of each recording, except its time range."""
    add, default = parser.add_argument, "(default: %(default)s)"
    whole: dict[str, Any] = {"type": parse_positive, "default": 1, "metavar": "N"}
    topics = "image topic to derain; may be repeated (default: every color camera)"
    add("--topic", dest="topics", action="append", default=[], metavar="T", help=topics)
    add("--replace", action="store_true", help="write derained frames under the source's topic")
    add("--only-derained", action="store_true", help="write derained topics only")
    add("--compressed", choices=CODECS, default="", help="write CompressedImages (default: as IN)")
    quality = f"JPEG quality {default}"
    add("--quality", type=whole_number(1, 100), default=BagOptions.quality, metavar="Q", help=quality)
    add("--stride", **whole, help="derain every Nth frame")
    add("--storage", choices=STORAGES, default="", help="of OUT (default: as IN; mcap for ROS 1)")
    add("--batch", **whole, help=f"frames per batch; more is faster on a GPU {default}")


def options_from(args: argparse.Namespace) -> BagOptions:
    """The options that ``add_bag_arguments`` describes."""
    chosen = {field.name: getattr(args, field.name, field.default) for field in fields(BagOptions)}
    return BagOptions(**(chosen | {"topics": tuple(args.topics)}))


def run(args: argparse.Namespace) -> int:
    """Derain a recording. Raises SapnetError."""
    from sapnet.bags.derain import derain_bag
    from sapnet.bags.report import write_html

    with derainer_from(args, max_batch=args.batch) as derainer, progress_bar(counts=True) as bar:
        task = bar.add_task(args.input.name, total=None)

        def show(messages: int, total: int, frames: int) -> None:
            speed = f"{frames / (bar.tasks[task].elapsed or math.inf):.1f} frames/s"
            bar.update(task, completed=messages, total=max(total, messages), description=f"{args.input.name}, {speed}")

        options = options_from(args)
        report = derain_bag(
            derainer, args.input, args.output, options, resume=args.resume, overwrite=args.overwrite, progress=show
        )
    if args.report:
        write_html(report, args.report)
    if args.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print(_summary(report, args.report))
    for note in report.notes:
        print(f"sapnet: warning: {note}", file=sys.stderr)
    if report.is_partial:
        print(f"sapnet: only a part of {args.input} could be read; {args.output} holds that part", file=sys.stderr)
    return EXIT_PARTIAL if report.is_partial else 0


def as_json(report: BagReport) -> dict[str, Any]:
    """The report with mean figures per camera instead of figures per frame."""
    values = asdict(report)
    del values["job"]
    for camera, shown in zip(report.cameras, values["cameras"], strict=True):
        for name in ("times_ns", "rain_scores", "latencies_ms"):
            del shown[name]
        shown["rain_score"] = camera.rain_score
        shown["latency_ms"] = fmean(camera.latencies_ms) if camera.latencies_ms else None
    return values | {
        "frames": report.frames,
        "fps": round(report.frames / report.seconds, 2) if report.seconds else 0.0,
    }


def _summary(report: BagReport, page: Path | None) -> str:
    speed = report.frames / report.seconds if report.seconds else 0.0
    lines = [
        f"{camera.topic}: {_counts(camera)} -> {camera.derained}, {camera.streak_mask}" for camera in report.cameras
    ]
    lines.append(
        f"{report.messages} messages, {report.frames} frames derained in {report.seconds:.1f} s "
        f"({speed:.1f} frames/s, {report.network['backend']} {report.network['precision']}): {report.output}"
    )
    return "\n".join(lines + ([f"report: {page}"] if page else []))


def _counts(camera: CameraReport) -> str:
    others = {"skipped": camera.skipped, "unreadable": camera.unreadable}
    counts = "".join(f", {count} {name}" for name, count in others.items() if count)
    return f"{camera.derained_frames} of {camera.frames} frames derained{counts}"
