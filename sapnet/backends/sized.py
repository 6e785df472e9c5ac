"""Backends that make something ready for each frame size, and keep it for the last few sizes."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from sapnet.backends.base import Backend, BackendSpec, EngineShape, Frames
from sapnet.errors import BackendError


class Runner(Protocol):
    """Runs frames of one size: an engine, CUDA graphs, or a network compiled for the size."""

    @property
    def shape(self) -> EngineShape:
        """The largest batch it takes, and its height and width."""
        ...

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """As ``Backend.infer``."""
        ...

    def close(self) -> None:
        """Free what it holds, after a call in progress."""
        ...


R = TypeVar("R", bound=Runner)


class SizedBackend(Backend, Generic[R]):
    """A backend that has a runner for each height and width, and keeps the last ``spec.max_shapes`` of them.

    One thread at a time makes a runner; the least recently used is closed when another takes its place.
    """

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._runners: OrderedDict[Hashable, R] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.Lock()  # held for the seconds or minutes that it takes to make a runner
        self._closed = threading.Event()

    @abstractmethod
    def _make(self, batch: int, height: int, width: int) -> R:
        """Make a runner for such frames. Raises BackendError."""

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether there is a runner for such frames. Raises BackendError once closed."""
        return self._ready(batch, height, width) is not None

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Make a runner for such frames, if there is none. Raises BackendError."""
        self._get(batch, height, width)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Derain uint8 (B, H, W, 3) BGR: the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        batch, height, width, _ = frames.shape
        return self._get(batch, height, width).infer(frames)

    def forget(self, height: int, width: int) -> bool:
        """Free what is held for frames of this size, which is made again when needed; returns whether it was any."""
        with self._lock:
            sizes = {key: (runner.shape.height, runner.shape.width) for key, runner in self._runners.items()}
            dropped = [self._runners.pop(key) for key, size in sizes.items() if size == (height, width)]
        for runner in dropped:
            runner.close()
        return bool(dropped)

    def close(self) -> None:
        """Close all runners."""
        with self._lock:
            self._closed.set()
            dropped = list(self._runners.values())
            self._runners.clear()
        for runner in dropped:
            runner.close()

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise BackendError(f"this {self.name} backend is closed; create another")

    def _key(self, batch: int, height: int, width: int) -> Hashable:
        """What a runner is kept under: another one for the same key replaces it."""
        return height, width

    def _ready(self, batch: int, height: int, width: int) -> R | None:
        key = self._key(batch, height, width)
        with self._lock:
            self._require_open()
            runner = self._runners.get(key)
            if runner is None or batch > runner.shape.max_batch:
                return None
            self._runners.move_to_end(key)
            return runner

    def _find(self, batch: int, height: int, width: int) -> R | None:
        """A runner that can be had without making one, put where ``_ready`` finds it."""
        return self._ready(batch, height, width)

    def _get(self, batch: int, height: int, width: int) -> R:
        """The runner for such frames, made if there is none."""
        if runner := self._ready(batch, height, width) or self._find(batch, height, width):
            return runner
        with self._making:
            # Another thread may have made it meanwhile.
            if runner := self._find(batch, height, width):
                return runner
            runner = self._make(batch, height, width)
            self._put(runner)
            return runner

    def _put(self, runner: R) -> None:
        """Add a runner, which is closed if the backend is."""
        shape = runner.shape
        key = self._key(shape.max_batch, shape.height, shape.width)
        with self._lock:
            dropped = [self._runners.pop(key)] if key in self._runners else []
            if self._closed.is_set():
                dropped.append(runner)
            else:
                self._runners[key] = runner
                if len(self._runners) > self._spec.max_shapes:
                    dropped.append(self._runners.popitem(last=False)[1])
        for old in dropped:
            old.close()
