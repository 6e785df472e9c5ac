"""What a compiled engine is made for and from: its shape, its key, and how far its build is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sapnet.errors import BackendError
from sapnet.images.frame import MIN_SIDE

_PACKAGE = Path(__file__).resolve().parents[1]
# Whatever is compiled into an engine is written in these.
_MODEL_CODE = ("config.py", "model/*.py", "backends/onnx_export.py", "backends/tensorrt_*.py")


class UnfitEngineError(BackendError):
    """An engine that does not run here or computes something else: another may, so that this one is not kept."""


# The key of a cache entry: plain values that JSON holds, compared as a whole.
Key = Mapping[str, Any]


@dataclass(frozen=True)
class EngineShape:
    """Frames of height x width, in batches of 1 to ``max_batch``. Raises BackendError for what no engine can be."""

    height: int
    width: int
    max_batch: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width) < MIN_SIDE or self.max_batch < 1:
            raise BackendError(
                f"got an engine shape of {self}, expected sides of at least {MIN_SIDE} and a batch of at least 1"
            )

    def __str__(self) -> str:
        return f"{self.height}x{self.width}" + (f", batch 1 to {self.max_batch}" if self.max_batch > 1 else "")


@dataclass(frozen=True)
class Progress:
    """How far a build is. share: of the whole build, 0 to 1, never falling; ``step`` says what is being done."""

    step: str
    share: float


class Pace:
    """When the share of a build moved last."""

    def __init__(self) -> None:
        self._share, self._moved = 0.0, 0.0

    def note(self, share: float, seconds: float) -> float:
        """Take down the share after so many seconds of a build; returns the seconds at which it moved last."""
        if share != self._share:
            self._share, self._moved = share, seconds
        return self._moved


OnProgress = Callable[[Progress], None]


@cache
def model_code_version() -> str:
    """A digest of the source that an engine is compiled from: a change of it makes a new engine."""
    digest = hashlib.sha256()
    for pattern in _MODEL_CODE:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(f"{path.relative_to(_PACKAGE)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return bytes_digest(path.read_bytes())


def bytes_digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
