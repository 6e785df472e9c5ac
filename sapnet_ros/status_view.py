"""What derain_node says on /diagnostics, read by the messages' fields, for people and for programs; imports no ROS."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from sapnet.commands.common import clean

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
UNLIMITED = sys.maxsize
MAX_CELL = 40
NOTE_LINES = 3
GAP = "  "


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
        """Tells nodes of one name apart: statuses say no namespace."""
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


def render(report: Report, width: int = UNLIMITED, silent_s: float = 0.0) -> list[Text]:
    """A report as lines of at most ``width`` cells. silent_s: since it came."""
    cameras, parts = [(clean(name, MAX_CELL), status) for name, status in report.cameras.items()], report.parts
    lines = _table(
        ("camera", "Hz in/out", "received", "derained", "passed", "dropped", "lost", "latency ms", "rain", "gate"),
        [_Row([name, *_camera_cells(status)], status, _camera_notes(status)) for name, status in cameras],
        width,
    )
    latencies = [_Row([name, *(_quantiles(status, part) for part in PARTS)]) for name, status in cameras]
    if any(any(row.cells[1:]) for row in latencies):
        lines += _table(("ms p50/95/99", *PARTS), latencies, width)
    if backend := parts.get("backend"):
        row = _Row(_backend_cells(backend), backend, _backend_notes(backend))
        lines += _table(("backend", "precision", "weights", "GPU MB", "restarts"), [row], width)
    if process := parts.get("process"):
        row = _Row(_process_cells(process), process, [clean(process.message)])
        lines += _table(("process", "memory MB", "CPU %", "threads", "version"), [row], width)
    title = Text(clean(report.node, MAX_CELL) + (f", pid {report.pid}" if report.pid else ""), style="bold")
    if silent_s >= SILENT_AFTER_S:
        title.append(f"{GAP}nothing came for {silent_s:.0f} s", style="red")
        lines = [Text(line.plain, style="dim") for line in lines]
    title.append(GAP + clean(", ".join(sorted(report.topics))), style="not bold")
    title.rstrip()
    for line in (title, *lines):
        line.truncate(width, overflow="ellipsis")
    return [title, *lines]


def _camera_cells(status: Status) -> list[str]:
    rates = _joined([status.figure(f"rate_{way}_hz", "{:.1f}".format) for way in ("in", "out")])
    counts = [status.figure(key, _say) for key in COUNTS]
    score = status.figure("rain_score", "{:.3f}".format)
    return [rates, *counts, _quantiles(status, "latency"), score, status.text("gate")]


def _camera_notes(status: Status) -> list[str]:
    """Its message, and why frames were passed through or dropped."""
    said = []
    for fate in REASONS:
        counts = {key: status.number(key) for key in status.values if key.startswith(f"{fate}_")}
        causes = [f"{_say(count)} {clean(key[len(fate) + 1 :], MAX_CELL)}" for key, count in counts.items() if count]
        said += [f"{fate.replace('_', ' ')}: {', '.join(causes)}"] if causes else []
    return [clean(status.message), "; ".join(said), _last_error(status)]


def _backend_cells(status: Status) -> list[str]:
    counts = [status.figure(key, _say) for key in ("gpu_memory_mb", "restarts")]
    return [*(status.text(key) for key in ("backend", "precision", "weights")), *counts]


def _backend_notes(status: Status) -> list[str]:
    message, share = clean(status.message), status.number("build_progress")
    # A share of 1, or words, which may be the message again.
    progress = clean(status.values.get("build_progress", "")) if share is None else f"{share:.0%}"
    build = f"build: {progress}" if progress not in ("", message) else ""
    device = status.text("device")
    return [message, build, f"on {device}" if device else "", _last_error(status)]


def _last_error(status: Status) -> str:
    """Empty where there was none, or the message is the same."""
    error, age = clean(status.values.get("last_error", "")), status.figure("last_error_age_s", "{:.0f}".format)
    return f"last error{f' {age} s ago' if age else ''}: {error}" if error not in ("", clean(status.message)) else ""


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


@dataclass(frozen=True)
class _Row:
    """A line of a table, the status that it shows and what else is to be said beneath."""

    cells: Sequence[str]
    status: Status | None = None
    notes: Sequence[str] = ()


def _table(titles: Sequence[str], rows: Sequence[_Row], width: int) -> list[Text]:
    """Columns in line, an empty line before. Where they are too wide, the names stand above the figures."""
    if not rows:
        return []
    columns = list(zip(titles, *(row.cells for row in rows), strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    left = [not all(cell[:1] in "?-" or cell[0].isdigit() for cell in column[1:]) for column in columns]
    indent = 0 if rows[0].status is None else max(map(len, LEVELS)) + len(GAP)
    stacked = indent + sum(widths) + len(GAP) * (len(widths) - 1) > width

    def aligned(cells: Sequence[str]) -> str:
        padded = [
            cell + " " * (size - cell_len(cell)) if is_left else " " * (size - cell_len(cell)) + cell
            for cell, size, is_left in zip(cells, widths, left, strict=True)
        ]
        return GAP.join(padded[1:] if stacked else padded)

    lines = [Text(), Text((" " * (0 if stacked else indent) + aligned(titles)).rstrip(), style="dim underline")]
    for row in rows:
        level = "" if row.status is None else f"{row.status.level:<{indent}}"
        # What a cell says already is not said again.
        notes = [note for note in row.notes if note not in ("", row.cells[0])]
        head = Text.assemble(
            (level, STYLES.get(level.strip(), "magenta")), row.cells[0] if stacked else aligned(row.cells)
        )
        if notes and cell_len(head.plain + GAP + notes[0]) <= width:
            head.append(GAP + notes.pop(0))
        figures = [Text(aligned(row.cells))] if stacked else []
        wrapped = (
            textwrap.wrap(note, max(1, width - indent), max_lines=NOTE_LINES, placeholder=" …") for note in notes
        )
        beneath = [Text(" " * indent + line) for note in wrapped for line in note]
        lines += [head, *figures, *beneath]
    return lines
