"""``sapnet top``: watches in a terminal what derain nodes say on /diagnostics."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
from rich.text import Text

from sapnet.commands.common import add_command, clean
from sapnet_ros.status_view import SILENT_AFTER_S, UNLIMITED, Report, plain, read, render

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers

POLL_S = 0.1
REDRAW_S = 0.5  # so that seconds of silence count up, and a resized terminal is filled anew
# Other nodes speak on /diagnostics too, and all at once.
DEPTH = 100

_EXAMPLES = """\
sapnet top
sapnet top --node derain_node
sapnet top --once
sapnet top --json | jq .cameras.camera.received
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet top``."""
    parser = add_command(subparsers, "top", "watch cameras, latency and backend of a running derain_node", _EXAMPLES)
    parser.add_argument(
        "--node", metavar="NAME", help="only nodes of this name, with or without the namespace (default: all)"
    )
    parser.add_argument("--once", action="store_true", help="print the first message and end")
    parser.add_argument("--json", action="store_true", help="print each message as a line of JSON")
    parser.add_argument(
        "--timeout", type=_parse_seconds, default=5.0, metavar="S", help="seconds that --once waits (default: 5)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Watch until Ctrl-C: 0. With ``--once`` 1 where nothing came in time."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    monitor = Monitor(args.node)
    try:
        with _listening(monitor) as spin:
            if args.once:
                return _once(monitor, spin, args)
            if terminal and not args.json:
                _redraw(monitor, spin)
            else:
                _print(monitor, spin, args.json)
    except KeyboardInterrupt:
        # The way to leave the display; what --once was asked for has not come.
        if args.once:
            raise
    return 0


@dataclass(frozen=True)
class Source:
    """A node's last report; when its first and its last one came, on the steady clock."""

    report: Report
    first_s: float
    last_s: float

    def is_replaced_by(self, other: Source) -> bool:
        """Whether the other process, which began after this one's last word, is the same node started anew."""
        ours, theirs = self.report, other.report
        same_topics = not ours.topics or not theirs.topics or ours.topics == theirs.topics
        return self.last_s < other.first_s and ours.node == theirs.node and same_topics


class Monitor:
    """Keeps the last report of every derain node. wanted: the name of the one that counts; None for all."""

    def __init__(self, wanted: str | None = None) -> None:
        self.sources: dict[tuple[str, str], Source] = {}
        self.fresh: list[Report] = []
        self.others: set[str] = set()
        self.last_s = time.monotonic()
        self._wanted = wanted

    def take(self, message: DiagnosticArray) -> None:
        """Note what came."""
        now_s = time.monotonic()
        for report in read(message):
            if self._wanted and not f"/{report.node}".endswith(f"/{self._wanted.lstrip('/')}"):
                self.others.add(report.node)
                continue
            key = (report.node, report.pid)
            first_s = self.sources[key].first_s if key in self.sources else now_s
            self.sources[key] = Source(report, first_s, now_s)
            self.fresh.append(report)
            self.last_s = now_s
        self._forget_the_replaced(now_s)

    def take_fresh(self) -> list[Report]:
        """What came since the last call."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def silent_s(self) -> float:
        """Since anything came, or since the start."""
        return time.monotonic() - self.last_s

    def lines(self, width: int, height: int) -> list[Text]:
        """The screen."""
        if not self.sources:
            return [Text(f"Waiting for {self.whom()}: nothing came for {self.silent_s():.0f} s. Ctrl-C ends.")]
        now_s = time.monotonic()
        lines: list[Text] = []
        for source in self.sources.values():
            lines += [Text()] if lines else []
            lines += render(source.report, width, now_s - source.last_s)
        if len(lines) > height:
            lines = [*lines[: height - 1], Text(f"… {len(lines) - height + 1} more lines", style="reverse")]
        return lines

    def whom(self) -> str:
        """Whom one waits for, and where."""
        others = f"; heard: {', '.join(map(clean, sorted(self.others)))}" if self.others else ""
        node = f"the node {self._wanted!r}" if self._wanted else "a derain_node"
        return f"{node} on /diagnostics (ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID') or 0}{others})"

    def _forget_the_replaced(self, now_s: float) -> None:
        """A process that ended is not shown beside the one that was started in its place."""
        for key, old in list(self.sources.items()):
            if now_s - old.last_s >= SILENT_AFTER_S and any(map(old.is_replaced_by, self.sources.values())):
                del self.sources[key]


def _once(monitor: Monitor, spin: Callable[[], None], args: argparse.Namespace) -> int:
    started_s = time.monotonic()
    while not monitor.fresh:
        if time.monotonic() - started_s > args.timeout:
            print(f"sapnet: error: no diagnostics of {monitor.whom()} within {args.timeout:g} s", file=sys.stderr)
            return 1
        spin()
    _say(monitor.fresh[0], args.json)
    return 0


def _redraw(monitor: Monitor, spin: Callable[[], None]) -> None:
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        drawn_s = -math.inf
        while True:
            if monitor.take_fresh() or time.monotonic() - drawn_s >= REDRAW_S:
                drawn_s = time.monotonic()
                live.update(Text("\n").join(monitor.lines(console.width, console.height)), refresh=True)
            spin()


def _print(monitor: Monitor, spin: Callable[[], None], as_json: bool) -> None:
    told_s = 0.0
    while True:
        for report in monitor.take_fresh():
            _say(report, as_json)
            told_s = 0.0
        silent_s = monitor.silent_s()
        if silent_s >= max(SILENT_AFTER_S, 2 * told_s):
            # Ever more rarely, for a file that this goes to is not to fill with it.
            line = f"nothing came for {silent_s:.0f} s from {monitor.whom()}"
            print(line, file=sys.stderr if as_json else sys.stdout, flush=True)
            told_s = silent_s
        spin()


def _say(report: Report, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plain(report)), flush=True)
    elif sys.stdout.isatty():
        console = Console(highlight=False)
        console.print(Text("\n").join(render(report, console.width)), no_wrap=True)
    else:
        print(*(line.plain for line in render(report, UNLIMITED)), "", sep="\n", flush=True)


@contextmanager
def _listening(monitor: Monitor) -> Iterator[Callable[[], None]]:
    """Subscribe; gives what waits a moment for messages and takes them."""
    context = rclpy.Context()
    # Ctrl-C stays Python's, so that it ends the display as an exception does.
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    name = f"sapnet_top_{os.getpid()}"
    node = Node(name, context=context, enable_rosout=False, start_parameter_services=False)
    executor = SingleThreadedExecutor(context=context)
    try:
        node.create_subscription(DiagnosticArray, "/diagnostics", monitor.take, DEPTH)
        executor.add_node(node)
        yield lambda: executor.spin_once(timeout_sec=POLL_S)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds
