"""A backend of engines, by frame size: a missing one is taken from the cache, else built."""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Sequence
from types import MappingProxyType

from sapnet.backends.base import BackendSpec, BuildWatch, EngineShape
from sapnet.backends.engines.build import BuildRequest, build_in_child
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.backends.sized import R, SizedBackend
from sapnet.errors import BackendError, UnfitEngineError

log = logging.getLogger("sapnet")


class EngineBackend(SizedBackend[R]):
    """A backend whose runners are engines, loaded from the cache or built in a child process.

    An engine that is in the cache does not wait for the build of another. Closing stops a build under way.
    place: what else it depends on whether an engine is fit. One that is built here and unfit is not built again there.
    """

    def __init__(self, spec: BackendSpec, place: Key = MappingProxyType({})) -> None:
        super().__init__(spec)
        self._place = place
        self._cache = EngineCache(spec.cache_dir)
        self._finding = threading.Lock()  # held while an engine is loaded

    @abstractmethod
    def _requests(self, shape: EngineShape) -> Sequence[BuildRequest]:
        """What an engine of a shape may be: the one to be built first, then those built elsewhere that do too."""

    @abstractmethod
    def _load(self, entry: Entry, shape: EngineShape) -> R:
        """Make a cache's entry run.

        Raises UnfitEngineError, for which the entry is built again, or BackendError, for which it is kept.
        """

    def _shape(self, batch: int, height: int, width: int) -> EngineShape:
        return EngineShape(height, width, max(batch, self._spec.max_batch))

    def _find(self, batch: int, height: int, width: int) -> R | None:
        with self._finding:
            if (ready := self._ready(batch, height, width)) is not None:
                return ready
            shape = self._shape(batch, height, width)
            for request in self._requests(shape):
                if (entry := self._cache.load(request.key())) is not None:
                    try:
                        engine = self._load(entry, shape)
                    except UnfitEngineError as err:
                        log.warning("the engine for %s in %s cannot be used: %s", shape, self._cache.folder, err)
                        self._cache.remove(request.key())
                    else:
                        self._put(engine)
                        return engine
        return None

    def _make(self, batch: int, height: int, width: int) -> R:
        shape = self._shape(batch, height, width)
        request = self._requests(shape)[0]
        # Kept beyond this process: otherwise each start would build the same engine, for minutes.
        verdict = {**request.key(), "kind": "verdict", **self._place}
        if (unfit := self._cache.load(verdict)) is not None:
            reason = unfit.about["reason"]
            raise BackendError(f"{reason}; it is not built again, unless `sapnet compile --clear` forgets this")
        try:
            entry = build_in_child(request, self._cache, BuildWatch(shape, self._spec.on_build), self._closed)
            return self._load(entry, shape)
        except UnfitEngineError as err:
            self._cache.store(verdict, b"", {"reason": str(err)})
            self._cache.remove(request.key())
            raise
