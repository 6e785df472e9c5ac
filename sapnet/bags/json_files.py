"""Files of JSON that are whole or not there, also after a loss of power; those that are damaged are named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sapnet.bags.metadata import sync
from sapnet.errors import BagError


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The object in a file. Raises BagError with ``advice`` where that is damaged, OSError."""
    try:
        values = json.loads(path.read_bytes())
    except ValueError as err:
        raise BagError(f"{path} is damaged ({err}); {advice}") from err
    if not isinstance(values, dict):
        raise BagError(f"{path} is damaged (it holds no object); {advice}")
    return values


def write_json(path: Path, values: dict[str, Any], indent: int | None = 2) -> None:
    """Write an object, to the disk. Raises OSError."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=indent) + "\n")
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)
