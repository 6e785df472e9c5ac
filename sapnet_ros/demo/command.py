"""``sapnet demo``: rain on a live ROS 2 camera topic, and what derain_node makes of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sapnet.commands.common import NETWORK, add_command, add_network_arguments, parse_positive
from sapnet.media.sequence import BUILTIN_FRAMES, NO_RAIN, RainySequence
from sapnet.rain import RAIN_PRESETS
from sapnet_ros.demo.camera import parse_rate
from sapnet_ros.demo.report import SHEET, VIDEO, summarize, write_pictures
from sapnet_ros.demo.run import NAMESPACE, DemoRun, DemoSettings, Recording
from sapnet_ros.demo.source import open_input
from sapnet_ros.replay.live_run import RunError, free_domain, parent_of, run_bar, say_reasons, watch_line

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers

BAG = "bag"
SUMMARY = "summary.json"
RESULTS = (SHEET, VIDEO, BAG, SUMMARY)
DEFAULT_WIDTH = 640
NATIVE = "native"

_DESCRIPTION = """\
Play rainy frames to a derain_node over DDS and record what comes back.

Player, node and recorder are processes of their own under /sapnet_demo, on this host, in a ROS domain that
nothing else uses. The player waits until the node is ready and sends the next frame when the last has come back.
"""

_EXAMPLES = """\
sapnet demo
sapnet demo drive.mp4 --rain heavy
sapnet demo photos/ --frames 20 --size native
sapnet demo recording/ --rain none --open-loop --rate 30
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet demo``."""
    parser = add_command(subparsers, "demo", "see rain vanish from a live ROS 2 topic", _EXAMPLES, _DESCRIPTION)
    parser.add_argument(
        "input",
        nargs="?",
        type=Path,
        metavar="INPUT",
        help="image, folder of images, video or rosbag2 recording (default: photographs in motion, at 320x240)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo_out"), metavar="OUT", help=_help("folder"))
    parser.add_argument(
        "--rain",
        choices=(NO_RAIN, *RAIN_PRESETS),
        help="synthetic rain to add (default: light on the photographs, none on an INPUT)",
    )
    parser.add_argument("--rate", type=parse_rate, default=10.0, metavar="HZ", help=_help("frames per second at most"))
    parser.add_argument("--frames", type=parse_positive, default=BUILTIN_FRAMES, metavar="N", help=_help("at most"))
    parser.add_argument(
        "--size",
        type=_parse_size,
        default=DEFAULT_WIDTH,
        metavar="WIDTH|native",
        help="wider frames are scaled down to this width (default: %(default)s)",
    )
    parser.add_argument("--open-loop", action="store_true", help="play at the fixed rate, whatever comes back")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_network_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo: 0 when frames were derained, 1 where a process failed. Raises SapnetError on wrong input."""
    rain = args.rain or (NO_RAIN if args.input else "light")
    sequence = RainySequence(args.input, rain, args.frames, args.size, opener=open_input)
    total = sequence.expected_frames()
    node = {name: value for name in NETWORK if (value := getattr(args, name))}
    settings = DemoSettings(sequence, args.rate, args.open_loop, node)
    parent = parent_of(args.output)
    try:
        # Beside the output, so that results move there in one step each.
        with TemporaryDirectory(prefix=f".{args.output.name}_", dir=parent) as folder, free_domain() as domain:
            hint = watch_line(domain, f"{NAMESPACE}/derained/image")
            print(f"To watch it, in another terminal:\n  {hint}", file=sys.stderr)
            with run_bar() as progress:
                task = progress.add_task("starting", total=total)
                recording = _record(
                    DemoRun(settings, Path(folder), domain),
                    lambda done, phase: progress.update(task, completed=done, description=phase),
                )
                progress.update(task, description="writing the pictures")
                summary = _write_results(recording, settings, Path(folder))
            _replace(Path(folder), args.output)
    except RunError as err:
        print(f"sapnet: error: {err}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        _print_table(summary, recording, args.output, hint)
    return 0


def _record(demo: DemoRun, on_progress: Callable[[int, str], None]) -> Recording:
    """Run the demo. Raises RunError also where no frame was derained, for there is nothing to show then."""
    recording = demo.perform(on_progress)
    if "derained" not in recording.outcomes.values():
        counts = say_reasons(recording.camera)
        raise RunError(f"none of {len(recording.sent)} frames was derained: {', '.join(counts)}")
    return recording


def _write_results(recording: Recording, settings: DemoSettings, folder: Path) -> dict[str, Any]:
    quality = write_pictures(recording, settings.sequence, settings.rate, folder)
    summary = summarize(recording, quality)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _replace(made: Path, output: Path) -> None:
    """Move the results to ``output``; what else is there stays."""
    output.mkdir(exist_ok=True)
    for name in RESULTS:
        old, new = output / name, made / name
        if old.exists():
            os.replace(old, made / f"old_{name}")
        os.replace(new, old)


def _print_table(summary: dict[str, Any], recording: Recording, output: Path, hint: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("frames", _say_counts(summary, recording))
    table.add_row("latency", "p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms".format(**summary["latency_ms"]))
    if summary["psnr_rainy"] is not None:
        table.add_row("PSNR", f"{summary['psnr_rainy']:.2f} dB rainy, {summary['psnr_derained']:.2f} dB derained")
    device = recording.backend.get("device", "")
    table.add_row("network", f"{summary['weights']}, {summary['backend']} {summary['precision']}, {device}")
    table.add_row("pictures", str(output / SHEET))
    table.add_row("video", str(output / VIDEO))
    table.add_row("recording", f"{output / BAG} (rosbag2, mcap)")
    table.add_row("figures", str(output / SUMMARY))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"\nWhile it runs, in another terminal:\n  {hint}")


def _say_counts(summary: dict[str, Any], recording: Recording) -> str:
    lost = summary["sent"] - summary["received"]
    missed = summary["derained"] + summary["passed_through"] - len(recording.outcomes)
    parts = [f"{summary['sent']} sent", f"{summary['derained']} derained"]
    parts += say_reasons(recording.camera)
    parts += [f"{lost} lost in transport"] if lost else []
    parts += [f"{missed} missed by the recorder"] if missed else []
    return ", ".join(parts)


def _parse_size(text: str) -> int:
    """Pixels, or ``native``: 0."""
    return 0 if text == NATIVE else parse_positive(text)


def _help(text: str) -> str:
    return f"{text} (default: %(default)s)"
