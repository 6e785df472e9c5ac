"""Runs frames on one backend until another, whose engines take long to build, is ready for their size."""

from __future__ import annotations

import logging
import math
import threading
import time

from sapnet.backends.base import Backend, Frames
from sapnet.errors import BackendError, SapnetError

# Time until a failed engine is tried again: there may be free memory by then.
_RETRY_S = 300.0

Shape = tuple[int, ...]  # batch, height, width

log = logging.getLogger("sapnet")


class Standby:
    """``wanted`` where it is ready, else ``meanwhile``. Both run the same weights and stages.

    ``prepare`` waits for ``meanwhile`` alone; engines are built in the background, again where one was dropped for
    another size. Where an engine cannot be made ready, the log says so, frames stay with ``meanwhile``, and the next
    try comes later. Once an engine is ready, ``meanwhile`` forgets its size.
    """

    def __init__(self, wanted: Backend, meanwhile: Backend) -> None:
        self._wanted = wanted
        self._meanwhile = meanwhile
        self._not_before: dict[Shape, float] = {}  # steady time of the next try, infinite while one is under way
        self._closed = False
        self._lock = threading.Lock()
        self.stages = wanted.stages
        self._change_over(meanwhile)

    @property
    def building(self) -> bool:
        """Whether an engine is being made ready."""
        return math.inf in list(self._not_before.values())

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether either backend is ready."""
        return any(backend.is_ready(batch, height, width) for backend in (self._wanted, self._meanwhile))

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Prepare ``meanwhile`` now and ``wanted`` in the background. Raises BackendError."""
        shape = batch, height, width
        if self._wanted.is_ready(*shape):
            return
        try:
            # First: loading an engine, even one that is in the cache, holds the lock that this needs.
            self._meanwhile.prepare(*shape)
        finally:
            self._want(shape)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Of uint8 (B, H, W, 3) BGR: the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        shape = frames.shape[:3]
        if not self._wanted.is_ready(*shape):
            self._want(shape)
            try:
                return self._run(self._meanwhile, frames)
            except BackendError:
                if not self._wanted.is_ready(*shape):  # else another thread has just changed over
                    raise
        return self._run(self._wanted, frames)

    def close(self) -> None:
        """Close both."""
        self._closed = True
        self._wanted.close()
        self._meanwhile.close()

    def _run(self, backend: Backend, frames: Frames) -> tuple[Frames, Frames]:
        if backend is not self._running:
            self._change_over(backend)
            log.info("backend %s, %s, on %s", backend.name, backend.precision, backend.device)
        return backend.infer(frames)

    def _change_over(self, backend: Backend) -> None:
        self._running = backend  # what ran the last frame
        self.name, self.precision, self.device = backend.name, backend.precision, backend.device

    def _want(self, shape: Shape) -> None:
        """Prepare an engine in the background, unless it is being built or failed recently."""
        with self._lock:
            if time.monotonic() < self._not_before.get(shape, -math.inf):
                return
            self._not_before[shape] = math.inf
        threading.Thread(target=self._prepare_wanted, args=(shape,), name="engine build", daemon=True).start()

    def _prepare_wanted(self, shape: Shape) -> None:
        _, height, width = shape
        not_before = -math.inf  # at once, should the engine be dropped for another size
        try:
            self._wanted.prepare(*shape)
            self._meanwhile.forget(height, width)
        except (SapnetError, OSError) as err:
            if not self._closed:
                said = height, width, self._meanwhile.name, self._meanwhile.device, err
                log.warning("%dx%d stays with %s (%s): %s", *said)
            not_before = time.monotonic() + _RETRY_S
        finally:
            self._not_before[shape] = not_before
