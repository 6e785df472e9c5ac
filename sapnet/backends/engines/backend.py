"""A backend of engines, by frame size: a missing one is taken from the cache, else built."""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Sequence

from sapnet.backends.base import Backend, BackendSpec, BuildWatch, EngineShape, Runner
from sapnet.backends.engines.build import BuildRequest, build_in_child
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.errors import BackendError, UnfitEngineError

log = logging.getLogger("sapnet")


class EngineBackend(Backend):
    """A backend whose runners are engines, loaded from the cache or built in a child process, one at a time.

    An engine that is in the cache does not wait for the build of another. Closing stops a build under way.
    """

    # What else it depends on whether an engine is fit. One that is built here and unfit is not built again there.
    _place: Key

    def __init__(self, spec: BackendSpec) -> None:
        super().__init__(spec)
        self._place = {}
        self._cache = EngineCache(spec.cache_dir)
        self._building = threading.Lock()

    @abstractmethod
    def _requests(self, shape: EngineShape) -> Sequence[BuildRequest]:
        """What an engine of a shape may be: the one to be built first, then those built elsewhere that do too."""

    @abstractmethod
    def _load(self, entry: Entry, shape: EngineShape) -> Runner:
        """Make a cache's entry run.

        Raises UnfitEngineError, for which the entry is built again, or BackendError, for which it is kept.
        """

    def _make(self, batch: int, height: int, width: int) -> Runner:
        shape = self._shape(batch, height, width)
        requests = self._requests(shape)
        for request in requests:
            if (entry := self._cache.load(request.key())) is not None:
                try:
                    return self._load(entry, shape)
                except UnfitEngineError as err:
                    log.warning("the engine for %s in %s cannot be used: %s", shape, self._cache.folder, err)
                    self._cache.remove(request.key())
        with self._building:
            return self._build(requests[0], shape)

    def _build(self, request: BuildRequest, shape: EngineShape) -> Runner:
        # Kept beyond this process: otherwise each start would build the same engine, for minutes.
        verdict = {**request.key(), "kind": "verdict", **self._place}
        if (unfit := self._cache.load(verdict)) is not None:
            reason = unfit.about["reason"]
            raise BackendError(f"{reason}; it is not built again, unless `sapnet compile --clear` forgets this")
        try:
            entry = build_in_child(request, self._cache, BuildWatch(shape, self._spec.on_build), self._closed)
            return self._load(entry, shape)
        except UnfitEngineError as err:
            self._cache.try_store(verdict, b"", {"reason": str(err)})
            self._cache.remove(request.key())
            raise
