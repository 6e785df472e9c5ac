"""What a fleet records: a row per recording, appended to the ledger as that recording ends, and the summary."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sapnet.errors import BagError
from sapnet.files import whole_lines

DONE, PARTIAL, FAILED, KEPT = "done", "partial", "failed", "kept"


@dataclass
class Row:
    """A recording of the plan and, once that has ended, its result.

    input, output: absolute paths of the recording and of the folder for its derained copy. bytes: its size.
    state: ``done`` in this run; ``partial`` if only a part of it could be read, and that part was derained; ``failed``
    after the last attempt; ``kept`` if an earlier run had done it; empty until then.
    attempts: how often it was begun in this run. seconds: time spent on it. node: host and Ray node that finished it.
    error: why it failed. notes: problems found in the recording. started, ended: UTC, ISO 8601.
    """

    input: str
    output: str
    state: str = ""
    attempts: int = 0
    frames: int = 0
    unreadable: int = 0
    messages: int = 0
    bytes: int = 0
    seconds: float = 0.0
    node: str = ""
    error: str = ""
    notes: list[str] = field(default_factory=list)
    started: str = ""
    ended: str = ""


@dataclass
class FleetReport:
    """The result of a fleet, rows sorted by path.

    frames: derained in this run. seconds: elapsed.
    """

    output: str
    rows: list[Row] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0

    def count(self, state: str) -> int:
        """Return the number of recordings in a state."""
        return sum(row.state == state for row in self.rows)

    @property
    def fps(self) -> float:
        """Frames derained per second."""
        return self.frames / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        counts = {state: self.count(state) for state in (DONE, PARTIAL, KEPT, FAILED)}
        return {"bags": len(self.rows), **counts, "fps": round(self.fps, 2), **asdict(self)}


def utc_now() -> str:
    """Return the time as ISO 8601, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def read_ledger(path: Path) -> dict[str, Row]:
    """The last row of each output in a ledger, empty without one. Raises BagError if a line is damaged, OSError."""
    newest = {}
    for number, line in enumerate(whole_lines(path), 1):
        try:
            row = Row(**json.loads(line))
        except (ValueError, TypeError) as err:
            raise BagError(f"line {number} of {path} is not a ledger row ({err}); move the file away") from err
        newest[row.output] = row
    return newest
