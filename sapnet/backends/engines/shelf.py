"""Engines that are ready to run, by frame size; what is missing is found in the cache, else built."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import MappingProxyType
from typing import Generic

from sapnet.backends.base import BackendSpec, BuildStatus
from sapnet.backends.engines.build import BuildRequest, build_in_child
from sapnet.backends.engines.cache import EngineCache, Entry
from sapnet.backends.engines.key import EngineShape, Key, Pace, Progress, UnfitEngineError
from sapnet.backends.recent import C, RecentShapes
from sapnet.errors import BackendError, EngineCacheError

log = logging.getLogger("sapnet")


class EngineShelf(Generic[C]):
    """The engines of a backend, for the last ``spec.max_shapes`` heights and widths.

    requests: what an engine of a shape may be, the one to be built first, then those built elsewhere that do too.
    load: makes a cache's entry run; raises UnfitEngineError, for which an entry that was found is built anew, or
    BackendError, for which it is kept.
    place: what else it depends on whether an engine is fit. One that is built here and unfit is not built again there.
    """

    def __init__(
        self,
        spec: BackendSpec,
        cache: EngineCache,
        requests: Callable[[EngineShape], list[BuildRequest]],
        load: Callable[[Entry, EngineShape], C],
        place: Key = MappingProxyType({}),
    ) -> None:
        self._spec = spec
        self._cache = cache
        self._requests = requests
        self._load = load
        self._place = place
        self._unfit: dict[EngineShape, str] = {}  # why, where the cache cannot keep that
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
                except UnfitEngineError as err:
                    log.warning("the engine for %s in %s is of no use: %s", shape, self._cache.folder, err)
                    self._remove(request)
        return None

    def _build(self, shape: EngineShape) -> C:
        pace = Pace()

        def on_progress(progress: Progress, seconds: float) -> None:
            moved = pace.note(progress.share, seconds)
            status = BuildStatus(shape.height, shape.width, progress.step, progress.share, seconds, moved)
            self._spec.on_build(status)

        request = self._requests(shape)[0]
        if reason := self._why_unfit(shape, request):
            raise BackendError(f"{reason}; it is not built again, unless `sapnet compile --clear` forgets this")
        entry = build_in_child(request, self._cache, on_progress, self._closed)
        try:
            return self._load(entry, shape)
        except UnfitEngineError as err:
            self._note_unfit(shape, request, str(err))
            self._remove(request)
            raise

    def _verdict_key(self, request: BuildRequest) -> Key:
        return {**request.key(), "kind": "verdict", **self._place}

    def _why_unfit(self, shape: EngineShape, request: BuildRequest) -> str:
        """Why the engine that would be built is unfit, as one before it was; empty where that is not known."""
        entry = self._cache.load(self._verdict_key(request))
        return self._unfit.get(shape, "") or ("" if entry is None else str(entry.about["reason"]))

    def _note_unfit(self, shape: EngineShape, request: BuildRequest, reason: str) -> None:
        """Remember it beyond this process too: each start would build the same, for minutes."""
        try:
            self._cache.store(self._verdict_key(request), b"", {"reason": reason})
        except EngineCacheError as err:
            self._unfit[shape] = reason
            log.warning("each start will build an engine for %s that is of no use: %s", shape, err)

    def _remove(self, request: BuildRequest) -> None:
        try:
            self._cache.remove(request.key())
        except EngineCacheError as err:
            log.warning("%s", err)
