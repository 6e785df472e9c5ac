"""``sapnet replay``: plays a recording through a live derain_node, and records what it gives out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sapnet.bags import open_recording
from sapnet.bags.metadata import METADATA
from sapnet.commands.common import NETWORK, add_command, add_network_arguments
from sapnet.errors import SapnetError
from sapnet_ros.replay.bag_publisher import add_play_arguments
from sapnet_ros.replay.live_run import RunError, free_domain, parent_of, run_bar, watch_line
from sapnet_ros.replay.plan import Plan, make_plan, plain
from sapnet_ros.replay.run import ReplayRun, ReplaySettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sapnet.commands.common import Subparsers


PIPED_WIDTH = 1000

_DESCRIPTION = """\
Play a recording to a derain_node over DDS, under simulated time, and record its outputs.

Player, node and recorder are processes of their own, on this host, in a ROS domain that nothing else uses. All topics
are played; the recording that is made holds derained/image, derained/camera_info, streak_mask/image and rain_score
of each camera, beside its topic.

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
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="rosbag2 folder to make (default: none)")
    parser.add_argument("--overwrite", action="store_true", help="replace a recording that exists")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="T",
        help="play and derain this camera alone; may be given again (default: all in colour)",
    )
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="of OUT (default: mcap)")
    parser.add_argument("--status", action="store_true", help="record frame_status too, which holds latencies")
    parser.add_argument("--params-file", type=Path, metavar="FILE", help="parameters of derain_node, keyed '/**:'")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--plan", action="store_true", help="play nothing; print how each process would be started, as JSON"
    )
    add_network_arguments(parser)
    parser.set_defaults(network={name: parser.get_default(name) for name in NETWORK})
    return parser


def run(args: argparse.Namespace) -> int:
    """Replay: 0 when frames were derained, 1 where a process failed or none was. Raises SapnetError on wrong input."""
    if args.params_file is not None and not args.params_file.is_file():
        raise SapnetError(f"{args.params_file} is not a file; give one with parameters of derain_node")
    if args.output is not None and not args.plan:
        _check_output(args.output, args.bag, args.overwrite)
    with open_recording(args.bag) as source:
        plan = make_plan(source, args.topic, lockstep=args.lockstep)
        if args.plan:
            print(json.dumps(plain(plan, source, recorder=args.output is not None), indent=2))
            return 0
    try:
        with _folder(args.output) as folder, free_domain() as domain:
            replay = ReplayRun(_settings(args, plan), folder, domain)
            watched = plan.cameras[0].source.output("derained/image")
            print(f"To watch it, in another terminal:\n  {watch_line(domain, watched)}", file=sys.stderr)
            summary = _perform(replay, None if args.loop or args.start or args.duration else _frames(plan))
            if args.output is not None:
                _put(replay.bag, args.output, folder)
    except RunError as err:
        print(f"sapnet: error: {err}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        _print_table(summary)
    return 0


def _settings(args: argparse.Namespace, plan: Plan) -> ReplaySettings:
    # What was not asked for is left to the params_file, and then to the node.
    asked = {name: value for name in NETWORK if (value := getattr(args, name)) != args.network[name]}
    return ReplaySettings(
        bag=args.bag,
        plan=plan,
        output=args.output,
        rate=args.rate,
        loop=args.loop,
        lockstep=args.lockstep,
        start_s=args.start,
        duration_s=args.duration,
        max_gap_s=args.max_gap,
        cameras_alone=bool(args.topic),
        storage=args.storage,
        status=args.status,
        node_parameters=asked,
        params_file=args.params_file,
    )


def _check_output(output: Path, bag: Path, overwrite: bool) -> None:
    """Raises SapnetError where the output would replace something that it must not."""
    if output.is_dir() and not overwrite:
        raise SapnetError(f"{output} exists already; --overwrite replaces it")
    if output.is_dir() and not (output / METADATA).is_file() and any(output.iterdir()):
        raise SapnetError(f"{output} is no recording, and is not replaced; give another output")
    if output.resolve() in (bag.resolve(), *bag.resolve().parents):
        raise SapnetError(f"{output} is, or holds, the recording to play; give another output")


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    """A folder for the time of the run: beside the output, so that it moves there in one step."""
    parent = None if output is None else parent_of(output)
    prefix = "sapnet_replay_" if output is None else f".{output.name}_"
    with TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        yield Path(folder)


def _frames(plan: Plan) -> int:
    return sum(camera.source.topic.count for camera in plan.cameras)


def _perform(replay: ReplayRun, total: int | None) -> dict[str, Any]:
    said: set[str] = set()
    with run_bar() as progress:
        task = progress.add_task("starting", total=total)

        def show(done: int, phase: str) -> None:
            progress.update(task, completed=done, description=phase)
            for warning in dict.fromkeys(replay.warnings()):
                if warning not in said:
                    said.add(warning)
                    progress.console.print(f"sapnet: warning: {warning}", markup=False, soft_wrap=True)

        return replay.perform(show)


def _put(made: Path, output: Path, folder: Path) -> None:
    try:
        if output.exists():
            os.rename(output, folder / "replaced")
        os.rename(made, output)
    except OSError as err:
        raise SapnetError(f"{output} cannot be made ({err.strerror}); give another output") from err


def _print_table(summary: dict[str, Any]) -> None:
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
    reasons: Sequence[str] = [f"{name} {count}" for name, count in camera["reasons"][fate].items()]
    return f"{camera[fate]} ({', '.join(reasons)})" if reasons else str(camera[fate])
