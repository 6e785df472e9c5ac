"""``sapnet top``: shows what derain nodes report on /diagnostics."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from sapnet.commands.common import add_command, clean

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers

POLL_S = 0.1
REDRAW_S = 0.5  # so that seconds of silence count up, and a resized terminal is filled anew
# Other nodes speak on /diagnostics too, and all at once.
DEPTH = 100

LEVELS = ("OK", "WARN", "ERROR", "STALE")
STYLES = {"OK": "green", "WARN": "yellow", "ERROR": "bold red"}
QUANTILES = ("p50", "p95", "p99")
PARTS = ("wait", "preprocess", "inference", "postprocess", "publish")
REASONS = ("passed_through", "dropped")
COUNTS = ("received", "derained", *REASONS, "lost_in_transport")

# Values that are known; others are shown nowhere.
TEXTS = {
    "topic",
    "gate",
    "backend",
    "weights",
    "precision",
    "device",
    "build_progress",
    "last_error",
    "state",
    "version",
}
FLAGS = {"best_effort_fallback", "enabled", "ready"}
NUMBERS = {*COUNTS, "in_flight", "rain_score", "rate_in_hz", "rate_out_hz", "silent_s", "stages", "missed_in_row"}
NUMBERS |= {"last_error_age_s", "restarts", "gpu_memory_mb", "pid", "memory_mb", "cpu_percent", "threads", "open_files"}
NUMBERS |= {f"{part}_ms_{quantile}" for part in ("latency", *PARTS) for quantile in QUANTILES}

# By two values a status is known to be derain_node's, whatever the node is called.
SIGNATURES = ({"received", "derained"}, {"backend", "weights"}, {"state", "pid"})

SILENT_AFTER_S = 3.0  # three messages that did not come
PIPED_WIDTH = 1000
MAX_CELL = 40
# Columns of words; the others hold figures.
WORDS = ("", "camera", "gate", "ms p50/95/99", "backend", "precision", "weights", "process", "version")
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

    def screen(self) -> RenderableType:
        """The last report of every node."""
        if not self.sources:
            return Text(f"Waiting for {self.whom()}: no message for {self.silent_s():.0f} s. Ctrl-C ends.")
        now_s = time.monotonic()
        reports = [render(source.report, now_s - source.last_s) for source in self.sources.values()]
        return Group(*(Padding(report, (0, 0, 1, 0)) for report in reports))

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
    _show(monitor.fresh[0], args.json)
    return 0


def _redraw(monitor: Monitor, spin: Callable[[], None]) -> None:
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        drawn_s = -math.inf
        while True:
            if monitor.take_fresh() or time.monotonic() - drawn_s >= REDRAW_S:
                drawn_s = time.monotonic()
                live.update(monitor.screen(), refresh=True)
            spin()


def _print(monitor: Monitor, spin: Callable[[], None], as_json: bool) -> None:
    told_s = 0.0
    while True:
        for report in monitor.take_fresh():
            _show(report, as_json)
            told_s = 0.0
        silent_s = monitor.silent_s()
        if silent_s >= max(SILENT_AFTER_S, 2 * told_s):
            # Ever more rarely, for a file that this goes to is not to fill with it.
            line = f"no message for {silent_s:.0f} s from {monitor.whom()}"
            print(line, file=sys.stderr if as_json else sys.stdout, flush=True)
            told_s = silent_s
        spin()


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plain(report)), flush=True)
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
        console.print(render(report), "")
        sys.stdout.flush()


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


@dataclass(frozen=True)
class Status:
    """One status; the values are the sender's text, whatever it is."""

    level: str
    message: str
    values: dict[str, str]

    def text(self, key: str) -> str:
        """For a cell; empty where it is missing."""
        return clean(self.values.get(key, ""), MAX_CELL)

    def number(self, key: str) -> float | None:
        """None where it is missing or no finite number."""
        try:
            value = float(self.values.get(key, ""))
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def figure(self, key: str, say: Callable[[float], str]) -> str:
        """For a cell; empty where it is missing, ``?`` where it is no number."""
        value = self.number(key)
        return say(value) if value is not None else "?" if self.values.get(key) else ""


@dataclass(frozen=True)
class Report:
    """What one derain_node said in one message. parts: ``backend`` and ``process``, as far as they came."""

    node: str
    cameras: dict[str, Status] = field(default_factory=dict)
    parts: dict[str, Status] = field(default_factory=dict)

    @property
    def pid(self) -> str:
        """Tells nodes of one name apart."""
        return self.parts["process"].text("pid") if "process" in self.parts else ""

    @property
    def topics(self) -> set[str]:
        """What the cameras listen to."""
        return {status.values.get("topic", "") for status in self.cameras.values()} - {""}


def read(message: Any) -> list[Report]:
    """The reports of derain nodes in a DiagnosticArray; of other nodes nothing."""
    reports: dict[str, Report] = {}
    ours = set()
    for status in message.status:
        node, colon, label = status.name.partition(": ")
        if not colon:
            continue
        values = {pair.key: pair.value for pair in status.values}
        if any(signature <= values.keys() for signature in SIGNATURES):
            ours.add(node)
        report = reports.setdefault(node, Report(node))
        # A camera, too, may be called backend.
        part = label in ("backend", "process") and "received" not in values
        (report.parts if part else report.cameras)[label] = Status(_level(status.level), status.message, values)
    return [report for node, report in reports.items() if node in ours]


def _level(level: bytes | int) -> str:
    number = int.from_bytes(level, "big") if isinstance(level, bytes) else level
    return LEVELS[number] if 0 <= number < len(LEVELS) else "?"


def plain(report: Report) -> dict[str, Any]:
    """For programs: ``node``, ``cameras`` by name, ``backend``, ``process``. A value that is no such thing is None."""
    cameras = {name: _plain(status) for name, status in report.cameras.items()}
    return {"node": report.node, "cameras": cameras} | {name: _plain(status) for name, status in report.parts.items()}


def _plain(status: Status) -> dict[str, Any]:
    known: dict[str, Any] = {"level": status.level, "message": status.message}
    for key, text in status.values.items():
        if key in TEXTS:
            known[key] = text
        elif key in FLAGS:
            known[key] = {"true": True, "false": False}.get(text)
        elif key in NUMBERS or key.startswith(tuple(f"{reason}_" for reason in REASONS)):
            value = status.number(key)
            known[key] = int(value) if value is not None and value.is_integer() and abs(value) < 2**53 else value
    return known


def render(report: Report, silent_s: float = 0.0) -> Group:
    """A report for the terminal: a title, and a table each of cameras, latencies, backend and process.

    silent_s: seconds since the report came.
    """
    cameras, parts = {clean(name, MAX_CELL): status for name, status in report.cameras.items()}, report.parts
    body: list[RenderableType] = []
    if cameras:
        table = _table("", "camera", "Hz in/out", "received", "derained", "passed", "dropped", "lost", "rain", "gate")
        for name, status in cameras.items():
            table.add_row(_level_text(status), Text(name), *map(Text, _camera_cells(status)))
        body += [Text(), table, *_notes(cameras, _camera_notes)]
        table = _table("ms p50/95/99", "latency", *PARTS)
        for name, status in cameras.items():
            table.add_row(Text(name), *(Text(_quantiles(status, part)) for part in ("latency", *PARTS)))
        body += [Text(), table]
    if backend := parts.get("backend"):
        table = _table("", "backend", "precision", "weights", "GPU MB", "restarts")
        table.add_row(_level_text(backend), *map(Text, _backend_cells(backend)))
        body += [Text(), table, *_notes({"": backend}, _backend_notes)]
    if process := parts.get("process"):
        table = _table("", "process", "memory MB", "CPU %", "threads", "version")
        table.add_row(_level_text(process), *map(Text, _process_cells(process)))
        body += [Text(), table]
    title = Text(clean(report.node, MAX_CELL) + (f", pid {report.pid}" if report.pid else ""), style="bold")
    if silent_s >= SILENT_AFTER_S:
        title.append(f"  no message for {silent_s:.0f} s", style="red")
        body = [Styled(part, "dim") for part in body]
    title.append("  " + clean(", ".join(sorted(report.topics)), MAX_NOTE), style="not bold")
    title.rstrip()
    return Group(title, *body)


def _table(*titles: str) -> Table:
    """Without lines. A column that does not fit folds its cells, so that every figure stays readable."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim underline")
    for title in titles:
        min_width = 5 if title == "" else None  # the longest level
        table.add_column(title, justify="left" if title in WORDS else "right", overflow="fold", min_width=min_width)
    return table


def _level_text(status: Status) -> Text:
    return Text(status.level, style=STYLES.get(status.level, "magenta"))


def _notes(statuses: Mapping[str, Status], notes_of: Callable[[Status], list[str]]) -> list[RenderableType]:
    """What is said of each status in words, named where there are several."""
    return [
        Padding(Text(f"{name}: {note}" if len(statuses) > 1 else note), (0, 0, 0, 7), expand=False)
        for name, status in statuses.items()
        for note in notes_of(status)
        if note
    ]


def _camera_cells(status: Status) -> list[str]:
    rates = _joined([status.figure(f"rate_{way}_hz", "{:.1f}".format) for way in ("in", "out")])
    counts = [status.figure(key, _say) for key in COUNTS]
    score = status.figure("rain_score", "{:.3f}".format)
    return [rates, *counts, score, status.text("gate")]


def _camera_notes(status: Status) -> list[str]:
    """Its message, and why frames were passed through or dropped."""
    said = []
    for fate in REASONS:
        counts = {key: status.number(key) for key in status.values if key.startswith(f"{fate}_")}
        causes = [f"{_say(count)} {clean(key[len(fate) + 1 :], MAX_CELL)}" for key, count in counts.items() if count]
        said += [f"{fate.replace('_', ' ')}: {', '.join(causes)}"] if causes else []
    return [clean(status.message, MAX_NOTE), clean("; ".join(said), MAX_NOTE), _last_error(status)]


def _backend_cells(status: Status) -> list[str]:
    counts = [status.figure(key, _say) for key in ("gpu_memory_mb", "restarts")]
    return [*(status.text(key) for key in ("backend", "precision", "weights")), *counts]


def _backend_notes(status: Status) -> list[str]:
    message, share = clean(status.message, MAX_NOTE), status.number("build_progress")
    # A share of 1, or words, which may be the message again.
    progress = clean(status.values.get("build_progress", ""), MAX_NOTE) if share is None else f"{share:.0%}"
    build = f"build: {progress}" if progress not in ("", message) else ""
    device = status.text("device")
    return [message, build, f"on {device}" if device else "", _last_error(status)]


def _last_error(status: Status) -> str:
    """Empty where there was none, or the message is the same."""
    error = clean(status.values.get("last_error", ""), MAX_NOTE)
    age = status.figure("last_error_age_s", "{:.0f}".format)
    if error in ("", clean(status.message, MAX_NOTE)):
        return ""
    return f"last error{f' {age} s ago' if age else ''}: {error}"


def _process_cells(status: Status) -> list[str]:
    figures = [status.figure(key, _say) for key in ("memory_mb", "cpu_percent", "threads")]
    return [status.text("state"), *figures, status.text("version")]


def _quantiles(status: Status, part: str) -> str:
    return _joined([status.figure(f"{part}_ms_{quantile}", _say_ms) for quantile in QUANTILES])


def _joined(figures: Sequence[str]) -> str:
    return "/".join(figure or "-" for figure in figures) if any(figures) else ""


def _say_ms(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 9.95 else _say(value)


def _say(value: float) -> str:
    return f"{value:.0f}" if abs(value) < 1e8 else f"{value:.3g}"
