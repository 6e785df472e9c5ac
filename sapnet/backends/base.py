"""What a backend is: something that runs the deploy network on batches of equal-sized frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sapnet.config import MAX_STAGES
from sapnet.errors import BackendError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# A build whose share has not moved for so long does not say how far it is.
_STANDS_STILL_S = 5.0
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class BuildStatus:
    """How far the build of an engine for frames of height x width is, for people.

    share: of the build, 0 to 1. seconds: since its beginning. moved: the seconds at which the share last moved.
    """

    height: int
    width: int
    step: str
    share: float
    seconds: float
    moved: float

    @property
    def seconds_left(self) -> float | None:
        """An estimate; None while there is nothing to go by, for one that stands still would tell of ever more."""
        if self.share < 0.05 or self.seconds - self.moved > _STANDS_STILL_S:
            return None
        return self.seconds * (1 - self.share) / self.share

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"building the engine for {self.height}x{self.width}: {self.step}, {self.seconds:.0f} s{left}"


@dataclass(frozen=True)
class BackendSpec:
    """What was asked for; ``auto`` and 0 leave the choice to the backend. A value out of range is a BackendError.

    weights: preset name with shipped weights, or path of a checkpoint.
    device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    stages: recurrences to run, up to ``MAX_STAGES``; 0 for the preset's own.
    max_shapes: compiled shapes kept; the least recently used goes first.
    max_batch: frames of one size that may come at once; compiled engines take up to so many.
    cache_dir: folder of compiled engines; empty for the user's own.
    engine: path of an engine that was compiled ahead of time; empty for none.
    on_build: told twice a second how far the build of an engine is, from any thread.
    options: ``fake``'s latency and faults; of the others ``threads``, CPU threads for OpenVINO's network, 0 for all.
    """

    weights: str = "sapnet_fast"
    device: str = "auto"
    precision: str = "auto"
    stages: int = 0
    max_shapes: int = 4
    max_batch: int = 1
    cache_dir: str = ""
    engine: str = ""
    on_build: Callable[[BuildStatus], None] = field(default=lambda status: None, compare=False)
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
        for name in ("max_shapes", "max_batch"):
            value = getattr(self, name)
            if not _is_whole(value) or value < 1:
                raise BackendError(f"got {name} {value!r}, expected a whole number of at least 1")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Backend(Protocol):
    """Runs the deploy network. Made by ``create(spec)`` of its module, which raises BackendError if it cannot run.

    ``prepare``, ``infer`` and ``close`` may be called from different threads at the same time.
    """

    stages: int  # recurrences that are run

    @property
    def name(self) -> str:
        """Of the backend that runs."""
        ...

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``fp16``."""
        ...

    @property
    def device(self) -> str:
        """The processor's or GPU's name, for people."""
        ...

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
