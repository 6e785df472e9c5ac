"""What became of every frame of a camera, and how long it took."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType

WINDOW = 300  # frames whose latency is remembered


@dataclass(frozen=True)
class Snapshot:
    """A camera's figures at one moment. Latencies are milliseconds from receipt to the last publish.

    received = derained + passed through + dropped + in_flight.
    last_reason, last_error: why the last frame was not derained, and what went wrong with it; empty if it was.
    """

    received: int
    derained: int
    passed_through: Mapping[str, int]
    dropped: Mapping[str, int]
    lost_in_transport: int
    latency_ms: Mapping[str, float]
    rain_score: float | None
    silent_s: float | None
    last_reason: str
    last_error: str

    @property
    def in_flight(self) -> int:
        """Frames received whose fate is open."""
        return self.received - self.derained - sum(self.passed_through.values()) - sum(self.dropped.values())


class CameraStats:
    """Counts of one camera; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._received = 0
        self._derained = 0
        self._passed_through: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._lost = 0
        self._latencies_s: deque[float] = deque(maxlen=WINDOW)
        self._rain_score: float | None = None
        self._last_received_s: float | None = None
        self._last_reason = self._last_error = ""

    def count_received(self, now_s: float) -> None:
        """A frame came in."""
        with self._lock:
            self._received += 1
            self._last_received_s = now_s

    def count_derained(self, latency_s: float, rain_score: float) -> None:
        """A derained frame went out."""
        with self._lock:
            self._derained += 1
            self._rain_score = rain_score
            self._latencies_s.append(latency_s)
            self._last_reason = self._last_error = ""

    def count_passed_through(self, reason: str, error: str = "") -> None:
        """The original of a frame went out."""
        with self._lock:
            self._passed_through[reason] += 1
            self._last_reason, self._last_error = reason, error

    def count_dropped(self, reason: str, error: str = "") -> None:
        """Nothing went out for a frame."""
        with self._lock:
            self._dropped[reason] += 1
            self._last_reason, self._last_error = reason, error

    def count_lost(self, frames: int) -> None:
        """The middleware says that frames never arrived."""
        with self._lock:
            self._lost += frames

    def snapshot(self) -> Snapshot:
        """The figures now."""
        with self._lock:
            latencies = sorted(self._latencies_s)
            last = self._last_received_s
            return Snapshot(
                received=self._received,
                derained=self._derained,
                passed_through=MappingProxyType(dict(self._passed_through)),
                dropped=MappingProxyType(dict(self._dropped)),
                lost_in_transport=self._lost,
                latency_ms={f"p{q}": 1e3 * _quantile(latencies, q) for q in (50, 95, 99)} if latencies else {},
                rain_score=self._rain_score,
                silent_s=None if last is None else time.monotonic() - last,
                last_reason=self._last_reason,
                last_error=self._last_error,
            )


def _quantile(ordered: list[float], percent: int) -> float:
    """Nearest-rank percentile of a sorted, non-empty list."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
