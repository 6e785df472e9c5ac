"""A backend without a network, for tests of everything around one: as slow and as faulty as it is asked to be."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass

import numpy as np

from sapnet.backends.base import BackendSpec, EngineShape, Frames, OnStep, Runner
from sapnet.backends.engines.build import BuildRequest, EngineBackend
from sapnet.backends.engines.cache import EngineCache, Entry
from sapnet.config import PRESETS, ModelConfig
from sapnet.errors import BackendError, UnfitEngineError

MODES = ("identity", "hang", "hang_once", "nan", "wrong_shape", "oom", "build_fails")
_HUNG = threading.Event()  # an inference has hung in this process


@dataclass(frozen=True)
class FakeOptions:
    """What ``BackendSpec.fake`` asks for.

    latency_ms  duration of an inference
    fail_every  every Nth inference raises BackendError; 0: none
    mode        identity     the frames come back as they are, without streaks
                hang         an inference does not end until the backend is closed
                hang_once    only the first inference of the process does so
                nan          frames of NaN
                wrong_shape  frames and streaks that lack a column
                oom          out of memory at every inference
                build_fails  an engine cannot be built
    build_s     duration of an engine's build, in a child process and into the cache, as TensorRT's; 0: no engine
    """

    latency_ms: float = 0.0
    fail_every: int = 0
    mode: str = "identity"
    build_s: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BackendError(f"got fake option mode {self.mode!r}, expected {', '.join(MODES)}")


@dataclass(frozen=True)
class _FakeEngine(Runner):
    shape: EngineShape

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """A copy of ``frames`` and all-zero streaks."""
        return frames.copy(), np.zeros(frames.shape[:3], np.uint8)


class FakeBackend(EngineBackend):
    """Runs nothing, with the latency and the faults that were asked for.

    Weights, device and precision of ``spec`` are ignored. Raises BackendError for an unknown mode.
    """

    name = "fake"
    precision = "fp32"
    device = "fake"

    def __init__(self, spec: BackendSpec) -> None:
        super().__init__(spec)
        self.stages = spec.stages or PRESETS.get(spec.weights, ModelConfig()).stages
        self._options = FakeOptions(**spec.fake)
        self._numbers = itertools.count(1)
        self.at_once = self._options.build_s == 0 and self._options.mode != "build_fails"

    def _requests(self, shape: EngineShape) -> list[BuildRequest]:
        fails = self._options.mode == "build_fails"
        return [FakeRequest(self._spec.weights, shape, "fp32", self._spec.stages, self._options.build_s, fails)]

    def _load(self, entry: Entry, shape: EngineShape) -> Runner:
        return _FakeEngine(shape)

    def _make(self, shape: EngineShape) -> Runner:
        return _FakeEngine(shape) if self.at_once else super()._make(shape)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """A copy of ``frames`` and all-zero streaks, or the fault that was asked for."""
        mode, fail_every = self._options.mode, self._options.fail_every
        if mode == "hang" or (mode == "hang_once" and not _HUNG.is_set()):
            _HUNG.set()
            self._closed.wait()
        self._closed.wait(self._options.latency_ms / 1000.0)
        self._require_open()
        number = next(self._numbers)
        if fail_every and number % fail_every == 0:
            raise BackendError(f"fake failure: inference {number}, fail_every is {fail_every}")
        if mode == "oom":
            raise BackendError("fake failure: out of memory") from MemoryError()
        derained, streaks = super().infer(frames)
        if mode == "nan":
            # What a broken network gives; that the type is wrong is the point.
            return np.full(frames.shape, np.nan, np.float32), streaks
        if mode == "wrong_shape":
            return derained[:, :, 1:], streaks[:, :, 1:]
        return derained, streaks


@dataclass(frozen=True)
class FakeRequest(BuildRequest):
    """A request for an engine that does nothing, after ``build_s``, or for a failure."""

    build_s: float
    fails: bool

    def build(self, cache: EngineCache, on_step: OnStep) -> bytes:
        """A fake engine: nothing, for as long as was asked for."""
        steps = max(20, round(self.build_s / 0.25))
        for step in range(steps):
            on_step("building", step / steps)
            time.sleep(self.build_s / steps)
        if self.fails:
            raise UnfitEngineError("fake failure: the engine cannot be built")
        return b"fake engine"
