"""``sapnet top``: shows what derain nodes report on /diagnostics."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.signals import SignalHandlerOptions
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from sapnet.commands.common import Subparsers, add_command, clean, parse_above_zero, stdout_console
from sapnet_ros.reports import MAX_CELL, Report, Status, number, read

POLL_S = 0.1
REDRAW_HZ = 2.0
# Other nodes speak on /diagnostics too, and all at once.
DEPTH = 100

STYLES = {"OK": "green", "WARN": "yellow", "ERROR": "bold red"}
QUANTILES = ("p50", "p95", "p99")
# Of a frame's time, with headings so short that three percentiles of each fit 80 columns.
PARTS = {
    "latency": "latency",
    "wait": "wait",
    "preprocess": "pre",
    "inference": "infer",
    "postprocess": "post",
    "publish": "publish",
}
COUNTS = ("received", "derained", "passed_through", "dropped", "lost_in_transport")
# Values that stay text in JSON, although they may look like a number.
TEXTS = ("topic", "weights", "version", "device", "build_progress", "last_error")

SILENT_AFTER_S = 3.0  # three messages that did not come
MAX_NOTE = 240

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
        "--timeout", type=parse_above_zero, default=5.0, metavar="S", help="seconds that --once waits (default: 5)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Watch until Ctrl-C: 0. With ``--once`` 1 where nothing came in time."""
    console = stdout_console()
    redrawn = sys.stdout.isatty() and not console.is_dumb_terminal and not args.json and not args.once
    monitor, told_s = Monitor(args.node), 0.0
    screen = Live(get_renderable=monitor.screen, console=console, screen=True, refresh_per_second=REDRAW_HZ)
    try:
        # Ctrl-C stays Python's, so that it ends the display as an exception does.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        name = f"sapnet_top_{os.getpid()}"
        node = rclpy.create_node(name, enable_rosout=False, start_parameter_services=False)
        node.create_subscription(DiagnosticArray, "/diagnostics", monitor.take, DEPTH)
        with screen if redrawn else nullcontext():
            while True:
                rclpy.spin_once(node, timeout_sec=POLL_S)
                while monitor.fresh:
                    report = monitor.fresh.pop(0)
                    if args.json:
                        print(json.dumps(plain(report)), flush=True)
                    elif not redrawn:
                        console.print(render(report), "")
                        sys.stdout.flush()
                    if args.once:
                        return 0
                silent_s = time.monotonic() - monitor.last_s
                if args.once and silent_s > args.timeout:
                    print(f"sapnet: error: {monitor.silence()}", file=sys.stderr)
                    return 1
                if not (redrawn or args.once) and silent_s >= SILENT_AFTER_S and told_s != monitor.last_s:
                    told_s = monitor.last_s
                    print(monitor.silence(), file=sys.stderr)
    except KeyboardInterrupt:  # the way to leave the display
        if args.once:
            raise
        return 0
    finally:
        rclpy.try_shutdown()


class Monitor:
    """Keeps the last report of every derain node, and when it came. wanted: the name of a node, or None for all."""

    def __init__(self, wanted: str | None = None) -> None:
        self.reports: dict[str, tuple[Report, float]] = {}
        self.fresh: list[Report] = []
        self.last_s = time.monotonic()
        self._others: set[str] = set()
        self._wanted = wanted

    def take(self, message: DiagnosticArray) -> None:
        """Store the reports of a message."""
        for report in read(message):
            if self._wanted and not f"/{report.node}".endswith(f"/{self._wanted.lstrip('/')}"):
                self._others.add(report.node)
                continue
            self.last_s = time.monotonic()
            self.reports[report.node] = report, self.last_s
            self.fresh.append(report)

    def silence(self) -> str:
        """How long there has been no report, of which node and where."""
        node = f"the node {self._wanted!r}" if self._wanted else "a derain_node"
        where = f"/diagnostics (ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID') or 0})"
        others = f"; heard: {', '.join(map(clean, sorted(self._others)))}" if self._others else ""
        return f"no message of {node} on {where} for {time.monotonic() - self.last_s:.0f} s{others}"

    def screen(self) -> RenderableType:
        """The last report of every node."""
        if not self.reports:
            return Text(f"{self.silence()}. Ctrl-C ends.")
        now_s = time.monotonic()
        shown = [render(report, now_s - came_s) for report, came_s in list(self.reports.values())]
        return Group(*(Padding(report, (0, 0, 1, 0)) for report in shown))


def plain(report: Report) -> dict[str, Any]:
    """For programs: ``node``, ``cameras`` by name, ``backend``, ``process``; numbers and booleans as such."""
    cameras = {name: _plain(status) for name, status in report.cameras.items()}
    return {"node": report.node, "cameras": cameras} | {name: _plain(status) for name, status in report.parts.items()}


def _plain(status: Status) -> dict[str, Any]:
    values = {key: text if key in TEXTS else _value(text) for key, text in status.values.items()}
    return {**values, "level": status.level, "message": status.message}


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    value = number(text)
    if value is None:
        return text
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def render(report: Report, silent_s: float = 0.0) -> Group:
    """A report for the terminal: a title, and a table each of cameras, latencies, backend and process.

    silent_s: seconds since the report came.
    """
    cameras, parts = {clean(name, MAX_CELL): status for name, status in report.cameras.items()}, report.parts
    body: list[RenderableType] = []
    if cameras:
        counted = ("received", "derained", "passed", "dropped", "lost")
        table = _table(["", "camera", "gate"], ["Hz in/out", *counted, "rain"])
        latencies = _table(["ms p50/95/99"], PARTS.values())
        for name, status in cameras.items():
            rates = status.figures(("rate_in_hz", "rate_out_hz"), ".1f")
            figures = [rates, *map(status.figure, COUNTS), status.figure("rain_score", ".3f")]
            table.add_row(_level_text(status), *map(Text, (name, status.text("gate"), *figures)))
            parts_ms = [[f"{part}_ms_{quantile}" for quantile in QUANTILES] for part in PARTS]
            latencies.add_row(Text(name), *(Text(status.figures(keys, ".1f")) for keys in parts_ms))
        body += [Text(), table]
        for name, status in cameras.items():
            body += _notes(status, f"{name}: " if len(cameras) > 1 else "")
        body += [Text(), latencies]
    if backend := parts.get("backend"):
        table = _table(["", "backend", "precision", "weights"], ["GPU MB", "restarts"])
        words = map(backend.text, ("backend", "precision", "weights"))
        figures = map(backend.figure, ("gpu_memory_mb", "restarts"))
        table.add_row(_level_text(backend), *map(Text, (*words, *figures)))
        body += [Text(), table, *_notes(backend)]
    if process := parts.get("process"):
        table = _table(["", "process", "version"], ["pid", "memory MB", "CPU %", "threads"])
        figures = map(process.figure, ("pid", "memory_mb", "cpu_percent", "threads"))
        table.add_row(_level_text(process), *map(Text, (process.text("state"), process.text("version"), *figures)))
        body += [Text(), table]
    title = Text(clean(report.node, MAX_CELL), style="bold")
    if silent_s >= SILENT_AFTER_S:
        title.append(f"  no message for {silent_s:.0f} s", style="red")
        body = [Styled(part, "dim") for part in body]
    topics = sorted({status.values.get("topic", "") for status in cameras.values()} - {""})
    title.append("  " + clean(", ".join(topics), MAX_NOTE), style="not bold")
    return Group(title, *body)


def _table(words: Iterable[str], figures: Iterable[str]) -> Table:
    """A table without lines. A column that does not fit folds its cells, so that every figure stays readable."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim underline")
    for title in words:
        table.add_column(title, overflow="fold", min_width=None if title else 5)  # the longest level
    for title in figures:
        table.add_column(title, overflow="fold", justify="right")
    return table


def _level_text(status: Status) -> Text:
    return Text(status.level, style=STYLES.get(status.level, "magenta"))


def _notes(status: Status, prefix: str = "") -> list[RenderableType]:
    """Lines below a table: the message, and what else a camera or the backend says, unless the message has it."""
    message, device = clean(status.message, MAX_NOTE), status.text("device")
    build, error = (status.text(key, MAX_NOTE) for key in ("build_progress", "last_error"))
    age = status.figure("last_error_age_s")
    notes = [
        message,
        _reasons(status),
        f"build: {build}" if build not in ("", message) else "",
        f"on {device}" if device else "",
        f"last error{f' {age} s ago' if age else ''}: {error}" if error not in ("", message) else "",
    ]
    return [Padding(Text(prefix + note), (0, 0, 0, 7), expand=False) for note in notes if note]


def _reasons(status: Status) -> str:
    """Why frames were passed through or dropped."""
    said = []
    for fate in ("passed_through", "dropped"):
        keys = [key for key, text in status.values.items() if key.startswith(f"{fate}_") and text != "0"]
        causes = [f"{status.figure(key)} {clean(key[len(fate) + 1 :], MAX_CELL)}" for key in keys]
        said += [f"{fate.replace('_', ' ')}: {', '.join(causes)}"] if causes else []
    return clean("; ".join(said), MAX_NOTE)
