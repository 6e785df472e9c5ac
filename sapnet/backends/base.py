"""What backends share: the protocol, the specification, and the progress of builds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sapnet.config import MAX_STAGES
from sapnet.errors import BackendError
from sapnet.images.frame import MIN_SIDE

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# No estimate of the time left once the share has not changed for this long.
_STANDS_STILL_S = 5.0
_TELL_EVERY_S = 0.25
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class EngineShape:
    """Frames of height x width, in batches of 1 to ``max_batch``. Raises BackendError for sizes that are too small."""

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
class BuildStatus:
    """Progress of an engine's build, for people.

    share: 0 to 1. seconds: since the build began. seconds_left: an estimate, None where there is none.
    """

    shape: EngineShape
    step: str
    share: float
    seconds: float
    seconds_left: float | None = None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        size = f"{self.shape.height}x{self.shape.width}"
        return f"building the engine for {size}: {self.step}, {self.seconds:.0f} s{left}"


OnBuild = Callable[[BuildStatus], None]
# Receives the step that a builder is at, and the share of the build that is done, 0 to 1.
OnStep = Callable[[str, float], None]


class BuildWatch:
    """Times a build: turns steps and shares into BuildStatus, at most four a second and one for each step."""

    def __init__(self, shape: EngineShape, on_build: OnBuild, clock: Callable[[], float] = time.monotonic) -> None:
        self._shape = shape
        self._on_build = on_build
        self._clock = clock
        self._began = clock()
        self._share = self._moved = 0.0
        self._told: tuple[str, float] = "", 0.0

    def __call__(self, step: str, share: float) -> None:
        """Report progress."""
        seconds = self._clock() - self._began
        if share != self._share:
            self._share, self._moved = share, seconds
        # TensorRT reports hundreds of times a second.
        if step != self._told[0] or seconds - self._told[1] >= _TELL_EVERY_S:
            self._told = step, seconds
            advances = share >= 0.05 and seconds - self._moved <= _STANDS_STILL_S
            left = seconds * (1 - share) / share if advances else None
            self._on_build(BuildStatus(self._shape, step, share, seconds, left))


@dataclass(frozen=True)
class BackendSpec:
    """What a backend is asked for; ``auto`` and 0 leave the choice to it. Raises BackendError for values out of range.

    weights: preset name with shipped weights, or path of a checkpoint.
    device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    stages: recurrences to run, up to ``MAX_STAGES``; 0 for the preset's own.
    max_shapes: compiled shapes kept; the least recently used is dropped first.
    max_batch: frames of one size that may come at once; compiled engines take up to this many.
    cache_dir: folder of compiled engines; empty for the user's own.
    engine: path of an engine that was compiled ahead of time; empty for none.
    on_build: called twice a second with the progress of an engine's build, from any thread.
    stand_in: with ``auto``, have CUDA torch derain frames while an engine is built, instead of waiting for the engine.
    threads: CPU threads of OpenVINO; 0 for all.
    fake: latency and faults of the backend ``fake``, see there.
    """

    weights: str = "sapnet_fast"
    device: str = "auto"
    precision: str = "auto"
    stages: int = 0
    max_shapes: int = 4
    max_batch: int = 1
    cache_dir: str = ""
    engine: str = ""
    on_build: OnBuild = field(default=lambda status: None, compare=False)
    stand_in: bool = False
    threads: int = 0
    fake: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise BackendError(f"got device {self.device!r}, expected auto, cpu, cuda or cuda:N")
        if self.precision not in PRECISIONS:
            raise BackendError(f"got precision {self.precision!r}, expected {', '.join(PRECISIONS)}")
        if not _is_whole(self.stages) or not 0 <= self.stages <= MAX_STAGES:
            raise BackendError(
                f"got stages {self.stages!r}, expected 1 to {MAX_STAGES}, or 0 for the number the weights were made for"
            )
        for name, least in (("max_shapes", 1), ("max_batch", 1), ("threads", 0)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise BackendError(f"got {name} {value!r}, expected a whole number of at least {least}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def import_installed(module: str, what: str, install: str) -> Any:
    """Import a module. Raises BackendError with the install line where it, or what it imports, is missing or broken."""
    try:
        return import_module(module)
    # A broken installation raises OSError from its shared objects.
    except (ImportError, OSError) as err:
        raise BackendError(f"{what} cannot be loaded ({err}); install it: {install}") from err


class Backend(Protocol):
    """Runs the deploy network. Raises BackendError if it cannot run.

    ``prepare``, ``infer`` and ``close`` may be called from different threads at the same time.
    """

    name: str
    precision: str  # fp32, bf16 or fp16
    device: str  # the processor's or GPU's name, for people
    stages: int  # recurrences that are run

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether ``infer`` on this shape would run at once, with nothing left to compile."""
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
        """Free what the backend holds; it cannot be used afterwards. An ``infer`` in progress ends or raises."""
        ...
