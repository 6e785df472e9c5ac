"""What a backend is: something that runs the deploy network on batches of equal-sized frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sapnet.config import MAX_STAGES
from sapnet.errors import BackendError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class BackendSpec:
    """What was asked for; ``auto`` and 0 leave the choice to the backend. A value out of range is a BackendError.

    weights: preset name with shipped weights, or path of a checkpoint.
    device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    stages: recurrences to run, up to ``MAX_STAGES``; 0 for the preset's own.
    max_shapes: compiled shapes kept; the least recently used goes first.
    options: settings of one backend alone (``fake``'s latency and faults).
    """

    weights: str = "sapnet_fast"
    device: str = "auto"
    precision: str = "auto"
    stages: int = 0
    max_shapes: int = 4
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise BackendError(f"got device {self.device!r}, expected auto, cpu, cuda or cuda:N")
        if self.precision not in PRECISIONS:
            raise BackendError(f"got precision {self.precision!r}, expected {', '.join(PRECISIONS)}")
        if not _is_whole(self.stages) or not 0 <= self.stages <= MAX_STAGES:
            raise BackendError(
                f"got stages {self.stages!r}, expected 1 to {MAX_STAGES}, or 0 for the number the weights were made for"
            )
        if not _is_whole(self.max_shapes) or self.max_shapes < 1:
            raise BackendError(f"got max_shapes {self.max_shapes!r}, expected a whole number of at least 1")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Backend(Protocol):
    """Runs the deploy network. Made by ``create(spec)`` of its module, which raises BackendError if it cannot run.

    ``prepare``, ``infer`` and ``close`` may be called from different threads at the same time.
    """

    name: str
    precision: str
    device: str  # for people: the processor's or GPU's name
    stages: int  # recurrences that are run

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether ``infer`` on this shape would start at once, with nothing left to compile."""
        ...

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Compile for a shape; may take seconds. Raises BackendError."""
        ...

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Derain uint8 (B, H, W, 3) BGR: the derained frames, same shape, and streaks, uint8 (B, H, W).

        The caller owns what is returned. An unprepared shape is prepared first. Raises BackendError.
        """
        ...

    def close(self) -> None:
        """Free what the backend holds; it cannot be used afterwards. An ``infer`` under way ends or raises."""
        ...
