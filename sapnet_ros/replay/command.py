"""``sapnet replay``: plays a recording through a live derain_node and records its outputs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sapnet.bags import open_recording
from sapnet.bags.derain import require_free
from sapnet.commands.common import NETWORK, Subparsers, add_command, add_network_arguments
from sapnet.errors import SapnetError
from sapnet_ros.replay.bag_publisher import add_play_arguments
from sapnet_ros.replay.plan import Plan, make_plan
from sapnet_ros.replay.processes import RunError
from sapnet_ros.replay.run import Replay

PIPED_WIDTH = 1000
PLAY_OPTIONS = ("rate", "loop", "start", "duration", "max_gap")

_DESCRIPTION = """\
Play a recording to a derain_node over DDS, under simulated time, and record the node's outputs.

This command plays; node and recorder are processes of their own, on this host, in a ROS domain that nothing else uses.
All topics are played; OUT holds derained/image, derained/camera_info, streak_mask/image and rain_score of each camera,
beside its topic.

With --lockstep the player waits for the node's answer to each frame, and two replays of a recording give equal outputs.
"""

_EXAMPLES = """\
sapnet replay drive/ -o derained/
sapnet replay drive.mcap --lockstep -o today/ && sapnet compare yesterday/ today/
sapnet replay drive/ --topic /front/image_raw --rate 2 --params-file vehicle.yaml
sapnet replay drive.bag --loop
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet replay``."""
    parser = add_command(subparsers, "replay", "play a recording through a live derain_node", _EXAMPLES, _DESCRIPTION)
    add_play_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="rosbag2 folder to write (default: none)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing recording")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="T",
        help="play and derain only this camera; may be repeated (default: all color cameras)",
    )
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="format of OUT (default: mcap)")
    parser.add_argument("--status", action="store_true", help="also record frame_status, which holds latencies")
    parser.add_argument("--params-file", type=Path, metavar="FILE", help="parameters of derain_node, keyed '/**:'")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--plan", action="store_true", help="play nothing; print how each process would be started, as JSON"
    )
    add_network_arguments(parser)
    parser.set_defaults(network={name: parser.get_default(name) for name in NETWORK})
    return parser


def run(args: argparse.Namespace) -> int:
    """Replay: 0 when frames were derained, 1 if a process failed or none was. Raises SapnetError on wrong input."""
    if args.params_file is not None and not args.params_file.is_file():
        raise SapnetError(f"{args.params_file} is not a file; give a parameter file of derain_node")
    if args.output is not None and not args.plan:
        require_free(args.bag, args.output, args.overwrite)
    with open_recording(args.bag) as source:
        plan = make_plan(source, args.topic, lockstep=args.lockstep)
        if args.plan:
            print(json.dumps(plan.plain(recorder=args.output is not None), indent=2))
            return 0
        try:
            summary = _replay(args, plan)
        except RunError as err:
            return tell(err)
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        print_table(summary)
    return 0


def tell(err: RunError) -> int:
    """Print an error with the last lines of a process, which are to stay lines; returns the exit status."""
    print(f"sapnet: error: {err}", file=sys.stderr)
    return 1


@contextmanager
def folder_beside(output: Path | None) -> Iterator[Path]:
    """A temporary folder from which results can be moved to ``output`` by renaming. Raises SapnetError."""
    if output is not None and output.exists() and not output.is_dir():
        raise SapnetError(f"{output} is a file; give a folder for the output")
    parent = None if output is None else output.absolute().parent
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        made = TemporaryDirectory(prefix="sapnet_" if output is None else f".{output.name}_", dir=parent)
    except OSError as err:
        where = parent or "the temporary folder"
        raise SapnetError(f"nothing can be written to {where} ({err.strerror}); give another output") from err
    with made as folder:
        yield Path(folder)


def _replay(args: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    cameras = plan.cameras.values()
    alone = [topic.name for camera in cameras for topic in (camera.topic, camera.info) if topic is not None]
    total = None if args.loop or args.start or args.duration else sum(camera.topic.count for camera in cameras)
    with folder_beside(args.output) as folder:
        bag = None if args.output is None else folder / "recording" / args.output.name
        replay = Replay(
            plan,
            folder,
            bag,
            # An option that was not given is left to the params_file, and then to the node's default.
            parameters={name: value for name in NETWORK if (value := getattr(args, name)) != args.network[name]},
            record=["--storage", args.storage, *(["--status"] if args.status else [])],
            params_file=args.params_file,
            play=argparse.Namespace(
                topic=alone if args.topic else [], **{name: getattr(args, name) for name in PLAY_OPTIONS}
            ),
        )
        summary = replay.perform(total)
        if bag is not None:
            put(bag, args.output)
            summary["output"] = str(args.output)
    return summary


def put(made: Path, output: Path) -> None:
    """Move a result to ``output``; one that is there takes its place beside it. Raises SapnetError."""
    try:
        if output.exists():
            os.rename(output, made.with_name(f"replaced_{made.name}"))
        os.rename(made, output)
    except OSError as err:
        raise SapnetError(f"{output} cannot be made ({err.strerror}); give another output") from err


def print_table(summary: dict[str, Any]) -> None:
    """The figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("camera", "sent", "received", "derained", "passed through", "dropped", "latency ms p50/95/99"):
        table.add_column(heading, justify="left" if heading == "camera" else "right", no_wrap=True)
    for camera in summary["cameras"]:
        latency = camera["latency_ms"]
        table.add_row(
            camera["topic"],
            *(str(camera[name]) for name in ("sent", "received", "derained")),
            _with_reasons(camera, "passed_through"),
            _with_reasons(camera, "dropped"),
            "/".join(f"{latency[name]:.1f}" for name in ("p50", "p95", "p99")) if latency else "-",
        )
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    console.print(table)
    network = summary["network"]
    console.print(
        f"\nnetwork    {network['weights']}, {network['backend']} {network['precision']}, {network['device']}"
    )
    if summary["output"]:
        console.print(f"recording  {summary['output']}")
    for note in summary["notes"]:
        console.print(f"note       {note}")


def _with_reasons(camera: dict[str, Any], fate: str) -> str:
    reasons = [f"{name} {count}" for name, count in camera["reasons"][fate].items()]
    return f"{camera[fate]} ({', '.join(reasons)})" if reasons else str(camera[fate])
