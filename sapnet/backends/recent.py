"""What was made ready for the frame sizes that were used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from sapnet.backends.engines.key import EngineShape
from sapnet.errors import BackendError


class Closable(Protocol):
    """Something that was made ready for a shape."""

    def close(self) -> None:
        """Free what it holds."""
        ...


C = TypeVar("C", bound=Closable)


class RecentShapes(Generic[C]):
    """One of them for each height and width; the one that was not used for longest goes where there are too many."""

    def __init__(self, max_shapes: int) -> None:
        self._max_shapes = max_shapes
        self._ready: OrderedDict[tuple[int, int], tuple[EngineShape, C]] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def get(self, batch: int, height: int, width: int) -> C | None:
        """What takes such frames, if it is there. Raises BackendError once closed."""
        with self._lock:
            if self._closed:
                raise BackendError("this backend is closed; create another")
            shape, ready = self._ready.get((height, width), (None, None))
            if shape is None or batch > shape.max_batch:
                return None
            self._ready.move_to_end((height, width))
            return ready

    def put(self, shape: EngineShape, ready: C) -> None:
        """Add one. What it takes the place of is closed, or it is itself, once this is."""
        size = shape.height, shape.width
        with self._lock:
            given_up = [self._ready.pop(size)[1]] if size in self._ready else []
            if self._closed:
                given_up.append(ready)
            else:
                self._ready[size] = shape, ready
                if len(self._ready) > self._max_shapes:
                    given_up.append(self._ready.popitem(last=False)[1][1])
        for old in given_up:
            old.close()

    def forget(self, height: int, width: int) -> bool:
        """Close what takes frames of this size; returns whether there was something."""
        with self._lock:
            _, ready = self._ready.pop((height, width), (None, None))
        if ready is not None:
            ready.close()
        return ready is not None

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            self._closed = True
            given_up = [ready for _, ready in self._ready.values()]
            self._ready.clear()
        for old in given_up:
            old.close()
