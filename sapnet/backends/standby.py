"""Serves frames with one backend until another, whose engines take long to build, is ready for their size."""

from __future__ import annotations

import logging
import threading

from sapnet.backends.base import Backend, Frames
from sapnet.errors import SapnetError

log = logging.getLogger("sapnet")


class Standby:
    """``wanted`` where it is ready, else ``meanwhile``. Both run the same weights and stages.

    ``prepare`` waits for ``meanwhile`` alone; engines are built in the background. One that cannot be built is
    said in the log, and its size stays with ``meanwhile``.
    """

    def __init__(self, wanted: Backend, meanwhile: Backend) -> None:
        self._wanted = wanted
        self._meanwhile = meanwhile
        self._running = meanwhile  # what ran the last frame
        self._asked: set[tuple[int, int, int]] = set()
        self._lock = threading.Lock()
        self.stages = wanted.stages

    @property
    def name(self) -> str:
        """Of what runs now."""
        return self._running.name

    @property
    def precision(self) -> str:
        """Of what runs now."""
        return self._running.precision

    @property
    def device(self) -> str:
        """Of what runs now."""
        return self._running.device

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether either is."""
        shape = batch, height, width
        return self._wanted.is_ready(*shape) or self._meanwhile.is_ready(*shape)

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Have ``wanted`` made ready in the background, and ``meanwhile`` at once. Raises BackendError."""
        shape = batch, height, width
        with self._lock:
            is_new = shape not in self._asked
            self._asked.add(shape)
        if is_new and not self._wanted.is_ready(*shape):
            threading.Thread(target=self._prepare_wanted, args=shape, name="engine build", daemon=True).start()
        if not self.is_ready(*shape):
            self._meanwhile.prepare(*shape)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Of uint8 (B, H, W, 3) BGR: the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        backend = self._wanted if self._wanted.is_ready(*frames.shape[:3]) else self._meanwhile
        if backend is not self._running:
            log.info("backend %s, %s, on %s", backend.name, backend.precision, backend.device)
            self._running = backend
        return backend.infer(frames)

    def close(self) -> None:
        """Close both."""
        self._wanted.close()
        self._meanwhile.close()

    def _prepare_wanted(self, *shape: int) -> None:
        batch, height, width = shape
        try:
            self._wanted.prepare(batch, height, width)
        except SapnetError as err:
            meanwhile = self._meanwhile
            log.warning("%dx%d stays with %s (%s): %s", height, width, meanwhile.name, meanwhile.device, err)
