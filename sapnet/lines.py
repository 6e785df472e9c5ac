"""Files of JSON lines that survive a kill: what was appended is on the disk, and half a line is none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Add a line, to the disk. Raises OSError."""
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[str]:
    """Its lines, none where there is no file; what a killed process left of one is cut off. Raises OSError."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))  # at once: were it written anew, a kill could empty it
    return whole.decode().splitlines()
