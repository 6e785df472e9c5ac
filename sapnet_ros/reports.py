"""Reads what derain nodes report on /diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sapnet.commands.common import clean

LEVELS = {b"\0": "OK", b"\1": "WARN", b"\2": "ERROR", b"\3": "STALE"}
# A status that has these values is derain_node's, whatever the node is called.
SIGNATURES = {"camera": {"received", "derained"}, "backend": {"backend", "weights"}, "process": {"state", "pid"}}
MAX_CELL = 40


@dataclass(frozen=True)
class Status:
    """One diagnostic status. The values come from the network and may be any text."""

    level: str
    message: str
    values: dict[str, str]

    def text(self, key: str, longest: int = MAX_CELL) -> str:
        """A value for display; empty if missing."""
        return clean(self.values.get(key, ""), longest)

    def figure(self, key: str, form: str = ".0f") -> str:
        """A number for display, from 10 on without decimals; empty if missing, ``?`` if it is not a finite number."""
        value = number(self.values.get(key, ""))
        if value is None:
            return "?" if self.values.get(key) else ""
        return f"{value:{form if abs(value) < 9.95 else '.0f'}}"

    def figures(self, keys: Iterable[str], form: str) -> str:
        """Several numbers, separated by slashes; empty if all are missing."""
        found = [self.figure(key, form) for key in keys]
        return "/".join(figure or "-" for figure in found) if any(found) else ""


def number(text: str) -> float | None:
    """A finite number; None if the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Report:
    """What one derain_node said in one message. parts: ``backend`` and ``process``, as far as they came."""

    node: str
    cameras: dict[str, Status] = field(default_factory=dict)
    parts: dict[str, Status] = field(default_factory=dict)


def read(message: Any) -> list[Report]:
    """The reports of derain nodes in a DiagnosticArray; of other nodes nothing."""
    reports: dict[str, Report] = {}
    for status in message.status:
        node, colon, label = status.name.partition(": ")
        values = {pair.key: pair.value for pair in status.values}
        kind = next((kind for kind, keys in SIGNATURES.items() if keys <= values.keys()), None)
        if kind is None or not colon:
            continue
        report = reports.setdefault(node, Report(node))
        shown = Status(LEVELS.get(status.level, "?"), status.message, values)
        if kind == "camera":
            report.cameras[label] = shown
        else:
            report.parts[kind] = shown
    return list(reports.values())
