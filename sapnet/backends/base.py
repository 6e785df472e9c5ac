"""What a backend is: something that runs the deploy network on batches of equal-sized frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class BackendSpec:
    """What was asked for; ``auto`` and 0 leave the choice to the backend.

    weights: preset name with shipped weights, or path of a checkpoint.
    device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    stages: recurrences to run; 0 for the preset's own.
    max_shapes: compiled shapes kept; the least recently used goes first.
    options: settings of one backend alone (``fake``'s latency and faults).
    """

    weights: str = "sapnet_fast"
    device: str = "auto"
    precision: str = "auto"
    stages: int = 0
    max_shapes: int = 4
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class Backend(Protocol):
    """Runs the deploy network. Made by ``create(spec)`` of its module, which raises BackendError if it cannot run.

    ``prepare`` and ``infer`` may be called from different threads at the same time.
    """

    name: str
    precision: str
    device: str  # for people: the processor's or GPU's name

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
        """Free what the backend holds; it cannot be used afterwards."""
        ...
