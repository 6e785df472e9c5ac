"""What backends share: the specification, the progress of builds, and the runners that are kept by frame size."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from sapnet.config import MAX_STAGES
from sapnet.errors import BackendError, first_line

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# No estimate of the time left once the share has not changed for this long.
_STANDS_STILL_S = 5.0
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

Frames = NDArray[np.uint8]


class EngineShape(NamedTuple):
    """Frames of height x width, in batches of 1 to ``max_batch``."""

    height: int
    width: int
    max_batch: int = 1

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


def watch_build(shape: EngineShape, on_build: OnBuild) -> OnStep:
    """Begin to time a build; returns what its steps are reported to, which tells ``on_build`` how it stands."""
    began = time.monotonic()
    latest = moved = 0.0  # the share, and when it changed

    def on_step(step: str, share: float) -> None:
        nonlocal latest, moved
        seconds = time.monotonic() - began
        if share != latest:
            latest, moved = share, seconds
        advances = share >= 0.05 and seconds - moved <= _STANDS_STILL_S
        left = seconds * (1 - share) / share if advances else None
        on_build(BuildStatus(shape, step, share, seconds, left))

    return on_step


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
    on_build: called several times a second with the progress of an engine's build, from any thread.
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
    fake: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise BackendError(f"got device {self.device!r}, expected auto, cpu, cuda or cuda:N")
        if self.precision not in PRECISIONS:
            raise BackendError(f"got precision {self.precision!r}, expected {', '.join(PRECISIONS)}")
        if type(self.stages) is not int or not 0 <= self.stages <= MAX_STAGES:
            raise BackendError(
                f"got stages {self.stages!r}, expected 1 to {MAX_STAGES}, or 0 for the number the weights were made for"
            )
        for name, least in (("max_shapes", 1), ("max_batch", 1), ("threads", 0)):
            if (value := getattr(self, name)) < least:
                raise BackendError(f"got {name} {value!r}, expected at least {least}")


@contextmanager
def failing(what: str) -> Iterator[None]:
    """Raise a library's error inside, also of memory that runs out, as a BackendError that says what failed."""
    try:
        yield
    except (RuntimeError, TypeError, MemoryError) as err:
        raise BackendError(f"{what}: {first_line(err)}") from err


def import_installed(module: str, what: str, install: str) -> Any:
    """Import a module. Raises BackendError with the install line where it, or what it imports, is missing or broken."""
    try:
        return import_module(module)
    # A broken installation raises OSError from its shared objects.
    except (ImportError, OSError) as err:
        raise BackendError(f"{what} cannot be loaded ({err}); install it: {install}") from err


class Runner(ABC):
    """Runs frames of one size: an engine, CUDA graphs, or a network compiled for the size.

    shape: the largest batch it takes, and its height and width.
    """

    shape: EngineShape

    @abstractmethod
    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """As ``Backend.infer``; one call runs at a time."""

    def close(self) -> None:  # noqa: B027
        """Free what it holds, after a call in progress; nothing where that goes with the last reference."""


class Backend(ABC):
    """Runs the deploy network by a runner for each frame size; the last ``spec.max_shapes`` used are kept.

    precision: fp32, bf16 or fp16. device: the processor's or GPU's name, for people. stages: recurrences that are run.
    Its methods may be called from different threads at the same time. Raises BackendError if it cannot run.
    """

    name: str
    precision: str
    device: str
    stages: int
    at_once = False  # whether frames of any size run with nothing to prepare
    exact_batch = False  # whether a runner takes batches of one size alone, not smaller ones too
    building = False  # whether an engine is being made ready while another backend stands in for it

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._runners: OrderedDict[Hashable, Runner] = OrderedDict()
        # Each is held for the seconds or minutes that it takes to make the runner for a key, and is kept no longer.
        self._making: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @abstractmethod
    def _make(self, shape: EngineShape) -> Runner:
        """Make a runner for such frames; threads may do so for different sizes at once. Raises BackendError."""

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether ``infer`` on this shape would run at once. Raises BackendError once closed."""
        return self.at_once or self._ready(batch, height, width) is not None

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Make a runner for such frames, if there is none; may take minutes. Raises BackendError."""
        if not self.at_once:
            self._get(batch, height, width)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Derain uint8 (B, H, W, 3) BGR: the derained frames, same shape, and streaks, uint8 (B, H, W).

        The caller owns what is returned. An unprepared shape is prepared first. Raises BackendError.
        """
        batch, height, width, _ = frames.shape
        return self._get(batch, height, width).infer(frames)

    def forget(self, height: int, width: int) -> None:
        """Free what is held for frames of this size, which is made again when needed."""
        self._drop(lambda shape: (shape.height, shape.width) == (height, width))

    def close(self) -> None:
        """Free what the backend holds; it cannot be used afterwards. An ``infer`` in progress ends or raises."""
        self._closed.set()
        self._drop(lambda shape: True)

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise BackendError(f"this {self.name} backend is closed; create another")

    def _key(self, batch: int, height: int, width: int) -> Hashable:
        """What a runner is kept under: another one for the same key replaces it."""
        return (batch, height, width) if self.exact_batch else (height, width)

    def _ready(self, batch: int, height: int, width: int) -> Runner | None:
        key = self._key(batch, height, width)
        with self._lock:
            self._require_open()
            runner = self._runners.get(key)
            if runner is None or batch > runner.shape.max_batch:
                return None
            self._runners.move_to_end(key)
            return runner

    def _get(self, batch: int, height: int, width: int) -> Runner:
        """The runner for such frames, made if there is none."""
        if runner := self._ready(batch, height, width):
            return runner
        with self._lock:
            making = self._making.setdefault(self._key(batch, height, width), threading.Lock())
        with making:
            # Another thread may have made it meanwhile.
            if runner := self._ready(batch, height, width):
                return runner
            largest = batch if self.exact_batch else max(batch, self._spec.max_batch)
            runner = self._make(EngineShape(height, width, largest))
            self._put(runner)
            return runner

    def _put(self, runner: Runner) -> None:
        """Add a runner, which is closed if the backend is."""
        shape = runner.shape
        key = self._key(shape.max_batch, shape.height, shape.width)
        with self._lock:
            dropped = [self._runners.pop(key)] if key in self._runners else []
            self._runners[key] = runner
            while len(self._runners) > (0 if self._closed.is_set() else self._spec.max_shapes):
                dropped.append(self._runners.popitem(last=False)[1])
        for old in dropped:
            old.close()

    def _drop(self, which: Callable[[EngineShape], bool]) -> None:
        with self._lock:
            keys = [key for key, runner in self._runners.items() if which(runner.shape)]
            dropped = [self._runners.pop(key) for key in keys]
        for runner in dropped:
            runner.close()
