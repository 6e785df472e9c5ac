"""The identity of an engine: plain JSON values, compared as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sapnet.errors import BackendError

_PACKAGE = Path(__file__).resolve().parents[2]
# The source code that decides what an engine computes.
_MODEL_CODE = ("config.py", "model/*.py", "backends/engines/build*.py")

# The key of a cache entry.
Key = Mapping[str, Any]


class UnfitEngineError(BackendError):
    """An engine does not run here or gives wrong results; it is removed, and another one may be built."""


@cache
def model_code_version() -> str:
    """A digest of the source that decides what an engine computes; a change leads to a new engine."""
    digest = hashlib.sha256()
    for pattern in _MODEL_CODE:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(f"{path.relative_to(_PACKAGE)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
