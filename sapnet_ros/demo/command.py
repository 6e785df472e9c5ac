"""``sapnet demo``: rain on a live ROS 2 camera topic, and what derain_node makes of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapnet.bags import open_recording
from sapnet.commands.common import NETWORK, add_command, add_network_arguments, parse_above_zero, parse_positive
from sapnet.media.sequence import BUILTIN_FRAMES, NO_RAIN, RainySequence
from sapnet.rain import RAIN_PRESETS
from sapnet_ros.demo.recording import TOPIC, read_input, write_recording
from sapnet_ros.demo.report import SHEET, VIDEO, summarize, write_pictures
from sapnet_ros.replay.command import folder_beside, print_table, put, tell
from sapnet_ros.replay.plan import make_plan
from sapnet_ros.replay.processes import RunError
from sapnet_ros.replay.run import Replay

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers

BAG = "bag"
SUMMARY = "summary.json"
DEFAULT_WIDTH = 640
NATIVE = "native"

_DESCRIPTION = """\
Play rainy frames to a derain_node over DDS and record what comes back.

This command plays; node and recorder are processes of their own under /sapnet_demo, on this host, in a ROS domain that
nothing else uses. It waits until the node is ready, and sends each frame when the one before it has come back.
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
    parser.add_argument("--rate", type=parse_above_zero, default=10.0, metavar="HZ", help=_help("maximum frame rate"))
    parser.add_argument(
        "--frames", type=parse_positive, default=BUILTIN_FRAMES, metavar="N", help=_help("maximum number of frames")
    )
    parser.add_argument(
        "--size",
        type=_parse_size,
        default=DEFAULT_WIDTH,
        metavar="WIDTH|native",
        help="scale wider frames down to this width (default: %(default)s)",
    )
    parser.add_argument("--open-loop", action="store_true", help="send frames at the fixed rate, without waiting")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_network_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo: 0 when frames were derained, 1 if a process failed. Raises SapnetError on wrong input."""
    try:
        figures, summary = _demonstrate(args)
    except RunError as err:
        return tell(err)
    if args.json:
        print(json.dumps(summary, indent=2))
        return 0
    print_table(figures)
    if summary["psnr_rainy"] is not None:
        print(f"PSNR       {summary['psnr_rainy']:.2f} dB rainy, {summary['psnr_derained']:.2f} dB derained")
    for what, name in (("pictures", SHEET), ("video", VIDEO), ("recording", BAG), ("figures", SUMMARY)):
        print(f"{what:<10} {args.output / name}")
    return 0


def _demonstrate(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write all results to the output folder; returns the replay's figures and the demo's summary."""
    rain = args.rain or (NO_RAIN if args.input else "light")
    sequence = RainySequence(args.input, rain, args.frames, args.size, reader=read_input)
    with folder_beside(args.output) as folder:
        played = folder / "played"
        sizes = write_recording(sequence, args.rate, played)
        node = {name: value for name in NETWORK if (value := getattr(args, name))}
        with open_recording(played) as source:
            plan = make_plan(source, [TOPIC], lockstep=not args.open_loop)
            replay = Replay(plan, folder, folder / BAG, parameters=node, record=["--status", "--input"])
            figures = replay.perform(len(sizes))
        quality = write_pictures(folder / BAG, sizes, replay.outcomes, sequence, args.rate, folder)
        summary = summarize(figures, quality)
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        args.output.mkdir(exist_ok=True)
        for made in (folder / SHEET, folder / VIDEO, folder / BAG, folder / SUMMARY):
            put(made, args.output / made.name)
    return figures, summary


def _parse_size(text: str) -> int:
    """Pixels, or ``native``: 0."""
    return 0 if text == NATIVE else parse_positive(text)


def _help(text: str) -> str:
    return f"{text} (default: %(default)s)"
