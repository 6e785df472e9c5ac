"""A backend of engines, by frame size: a missing one is taken from the cache, else built."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from sapnet.backends.base import BackendSpec, BuildWatch, EngineShape
from sapnet.backends.engines.build import BuildRequest, build_in_child
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.backends.lru import Closable, LruCache
from sapnet.errors import BackendError, UnfitEngineError

log = logging.getLogger("sapnet")


class Engine(Closable, Protocol):
    """An engine that can run frames of its shape."""

    @property
    def shape(self) -> EngineShape:
        """The largest batch it takes, and its height and width."""
        ...


E = TypeVar("E", bound=Engine)


class EngineBackend(ABC, Generic[E]):
    """A backend of engines, for the last ``spec.max_shapes`` heights and widths.

    place: what else it depends on whether an engine is fit. One that is built here and unfit is not built again there.
    """

    def __init__(self, spec: BackendSpec, place: Key = MappingProxyType({})) -> None:
        self._spec = spec
        self._place = place
        self._cache = EngineCache(spec.cache_dir)
        self._engines: LruCache[tuple[int, int], E] = LruCache(spec.max_shapes)
        self._finding = threading.Lock()  # held while an engine is loaded
        self._building = threading.Lock()  # held for the minutes that a build takes
        self._closed = threading.Event()

    @abstractmethod
    def _requests(self, shape: EngineShape) -> Sequence[BuildRequest]:
        """What an engine of a shape may be: the one to be built first, then those built elsewhere that do too."""

    @abstractmethod
    def _load(self, entry: Entry, shape: EngineShape) -> E:
        """Make a cache's entry run.

        Raises UnfitEngineError, for which the entry is built again, or BackendError, for which it is kept.
        """

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether an engine for such frames is loaded. Raises BackendError once closed."""
        return self._ready(batch, height, width) is not None

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Load the engine for such frames, or build it in a child process, which takes up to minutes.

        An engine that is in the cache does not wait for the build of another. Raises BackendError, also if the backend
        is closed meanwhile.
        """
        self._get(batch, height, width)

    def close(self) -> None:
        """Free the engines; a build under way is stopped."""
        self._closed.set()
        self._engines.close()

    def _ready(self, batch: int, height: int, width: int) -> E | None:
        engine = self._engines.get((height, width))
        return engine if engine is not None and batch <= engine.shape.max_batch else None

    def _put(self, engine: E) -> None:
        """Add an engine, which replaces one for the same height and width."""
        self._engines.put((engine.shape.height, engine.shape.width), engine)

    def _get(self, batch: int, height: int, width: int) -> E:
        """The engine for such frames, made ready if it is not."""
        shape = EngineShape(height, width, max(batch, self._spec.max_batch))
        if (engine := self._ready(batch, height, width) or self._find(batch, shape)) is not None:
            return engine
        with self._building:
            # Another thread may have built it meanwhile.
            engine = self._find(batch, shape) or self._build(shape)
            self._put(engine)
            return engine

    def _find(self, batch: int, shape: EngineShape) -> E | None:
        with self._finding:
            if (ready := self._ready(batch, shape.height, shape.width)) is not None:
                return ready
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

    def _build(self, shape: EngineShape) -> E:
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
