"""Files that are whole or absent, even after a kill or a loss of power: atomic replacement, JSON, JSON lines."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sapnet.errors import SapnetError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it replaces ``path`` at the end and is synced to the disk.

    If the body raises, the temporary file is removed and an existing ``path`` stays as it was. Missing folders are
    created. Raises SapnetError if the file cannot be written.
    """
    # The suffix stays last: codecs and muxers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise SapnetError(f"{path} cannot be written ({err.strerror}); check the folder, its rights and space") from err


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read the object in a file. Raises SapnetError with ``advice`` if the file is damaged, OSError."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        raise SapnetError(f"{path} is damaged ({err}); {advice}") from err
    if not isinstance(values, dict):
        raise SapnetError(f"{path} is damaged (it holds no object); {advice}")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a file by an object. Raises SapnetError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def append_line(path: Path, values: dict[str, Any] | list[Any]) -> None:
    """Append JSON as one line and sync it to the disk. Raises OSError."""
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")
    sync(path)


def whole_lines(path: Path) -> list[str]:
    """Return the complete lines of a file, none if it is absent; an incomplete last line is cut off. Raises OSError."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))  # in place: a kill while rewriting could empty the file
    return whole.decode().splitlines()


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    parts = [part for part in re.split(r"(\d+)", name.lower()) if part]
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts]
