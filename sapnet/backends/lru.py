"""The LRU cache of engines, CUDA graphs and compiled networks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from sapnet.errors import BackendError


class Closable(Protocol):
    """Something that holds memory until it is closed."""

    def close(self) -> None:
        """Free what it holds."""
        ...


K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Closable)


class LruCache(Generic[K, C]):
    """At most ``size`` items by key; the least recently used is closed when another takes its place. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, C] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def get(self, key: K) -> C | None:
        """The item of ``key``, if there is one. Raises BackendError once closed."""
        with self._lock:
            if self._closed:
                raise BackendError("this backend is closed; create another")
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: K, item: C) -> None:
        """Add an item. The one it replaces is closed; the item itself is, if the cache has been closed."""
        with self._lock:
            dropped = [self._items.pop(key)] if key in self._items else []
            if self._closed:
                dropped.append(item)
            else:
                self._items[key] = item
                if len(self._items) > self._size:
                    dropped.append(self._items.popitem(last=False)[1])
        for old in dropped:
            old.close()

    def drop(self, key: K) -> bool:
        """Close the item of ``key``; returns whether there was one."""
        with self._lock:
            item = self._items.pop(key, None)
        if item is not None:
            item.close()
        return item is not None

    def close(self) -> None:
        """Close all items; ``get`` raises from now on."""
        with self._lock:
            self._closed = True
            dropped = list(self._items.values())
            self._items.clear()
        for old in dropped:
            old.close()
