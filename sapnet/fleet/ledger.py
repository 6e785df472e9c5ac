"""The ledger of a fleet: a line of JSON for each recording, written as it ends."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path

from sapnet.errors import BagError
from sapnet.files import append_line, whole_lines

DONE, FAILED, KEPT = "done", "failed", "kept"


@dataclass
class Row:
    """What became of a recording.

    state: ``done`` in this run, ``failed`` as often as it may, or ``kept`` because an earlier run had done it.
    attempts: 1, and one for each time that a part of it failed or lost its worker. chunks: it was derained in.
    seconds: of work, over all workers. node: host and Ray's name of where it ended. error: the last one, also where
    a later attempt did it. notes: what was wrong with the recording. started, ended: UTC.
    """

    input: str
    output: str
    state: str
    attempts: int = 0
    chunks: int = 1
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


def utc_now() -> str:
    """ISO 8601, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Ledger:
    """The file. One process writes it; what a killed one left of a line is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.newest: dict[str, Row] = {}
        try:
            self._read()
        except OSError as err:
            raise BagError(f"{path} cannot be read ({err.strerror}); mend its rights") from err

    def append(self, row: Row) -> None:
        """Add a row, to the disk. Raises BagError."""
        try:
            append_line(self._path, asdict(row))
        except OSError as err:
            raise BagError(f"{self._path} cannot be written ({err.strerror}); make room or mend its rights") from err
        self.newest[row.output] = row

    def _read(self) -> None:
        known = {entry.name for entry in fields(Row)}
        for number, line in enumerate(whole_lines(self._path), 1):
            try:
                values = json.loads(line)
                row = Row(**{name: value for name, value in values.items() if name in known})
            except (ValueError, TypeError, AttributeError) as err:
                raise BagError(f"{self._path} line {number} is no row of a ledger ({err}); move it away") from err
            self.newest[row.output] = row
