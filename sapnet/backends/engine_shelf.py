"""Engines that are ready to run, by frame size; what is missing is found in the cache, else built."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic

from sapnet.backends.base import BackendSpec, BuildStatus
from sapnet.backends.engine import EngineShape, Progress
from sapnet.backends.engine_build import BuildRequest, build_in_child
from sapnet.backends.engine_cache import EngineCache, Entry
from sapnet.backends.recent import C, RecentShapes
from sapnet.errors import BackendError

log = logging.getLogger("sapnet")


class EngineShelf(Generic[C]):
    """The engines of a backend, for the last ``spec.max_shapes`` heights and widths.

    requests: what an engine of a shape may be, the one to be built first, then those built elsewhere that do too.
    load: makes a cache's entry run; raises BackendError, for which an entry that was found is built anew.
    """

    def __init__(
        self,
        spec: BackendSpec,
        cache: EngineCache,
        requests: Callable[[EngineShape], list[BuildRequest]],
        load: Callable[[Entry, EngineShape], C],
    ) -> None:
        self._spec = spec
        self._cache = cache
        self._requests = requests
        self._load = load
        self._engines: RecentShapes[C] = RecentShapes(spec.max_shapes)
        self._building = threading.Lock()
        self._closed = threading.Event()
        self.get = self._engines.get
        self.put = self._engines.put

    def prepare(self, batch: int, height: int, width: int) -> C:
        """The engine for such frames, built in a child process where there is none; may take minutes.

        Raises BackendError, also where the backend is closed meanwhile.
        """
        with self._building:
            if (engine := self.get(batch, height, width)) is not None:
                return engine
            shape = EngineShape(height, width, max(batch, self._spec.max_batch))
            engine = self._find(shape) or self._build(shape)
            self.put(shape, engine)
            return engine

    def close(self) -> None:
        """Close all engines, and stop a build."""
        self._closed.set()
        self._engines.close()

    def _find(self, shape: EngineShape) -> C | None:
        for request in self._requests(shape):
            if (entry := self._cache.load(request.key())) is not None:
                try:
                    return self._load(entry, shape)
                except BackendError as err:
                    log.warning("the engine for %s in %s is of no use: %s", shape, self._cache.folder, err)
                    self._cache.remove(request.key())
        return None

    def _build(self, shape: EngineShape) -> C:
        def on_progress(progress: Progress, seconds: float) -> None:
            self._spec.on_build(BuildStatus(shape.height, shape.width, progress.step, progress.share, seconds))

        request = self._requests(shape)[0]
        return self._load(build_in_child(request, self._cache, on_progress, self._closed), shape)
