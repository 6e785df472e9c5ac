"""Counts the fates of a camera's frames, and measures where their time went."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from threading import Lock
from types import MappingProxyType

from sapnet_ros.fate import OVERLOAD

WINDOW = 300  # frames whose latency is remembered
PASSING_WINDOW = 30  # frames that tell how long it takes to pass one through
RATE_WINDOW_S = 5.0
PACE_FRAMES = 8  # that tell when the next one is likely to come
PERCENTILES = (50, 95, 99)


@dataclass
class Parts:
    """Where a frame's time went, in seconds.

    wait: in line, and for the network. preprocess: taking the frame out of its message. inference: the call of the
    network, for all frames of its batch. postprocess: making the messages. publish: handing them to the middleware.
    total: from receipt to the last publish.
    """

    wait_s: float = 0.0
    preprocess_s: float = 0.0
    inference_s: float = 0.0
    postprocess_s: float = 0.0
    publish_s: float = 0.0
    total_s: float = 0.0


PARTS = ("wait", "preprocess", "inference", "postprocess", "publish", "latency")
"""Names of the fields of Parts, as they are reported."""


@dataclass(frozen=True)
class Snapshot:
    """A camera's figures at one moment.

    received = derained + passed through + dropped + in_flight.
    millis: of derained frames, by name of the part and percentile: ``inference_ms_p95``.
    last_reason, last_error: why the last frame was not derained, and what went wrong with it; empty if it was.
    error, error_age_s: the last that went wrong with any frame.
    missed_in_row: frames that missed their deadline since the last one that did not.
    """

    received: int
    derained: int
    passed_through: Mapping[str, int]
    dropped: Mapping[str, int]
    lost_in_transport: int
    rate_in_hz: float
    rate_out_hz: float
    millis: Mapping[str, float]
    rain_score: float | None
    silent_s: float | None
    last_reason: str
    last_error: str
    error: str
    error_age_s: float
    missed_in_row: int

    @property
    def in_flight(self) -> int:
        """Frames received whose fate is open."""
        return self.received - self.derained - sum(self.passed_through.values()) - sum(self.dropped.values())


class CameraStats:
    """Counts of one camera; every method may be called from any thread. clock: steady seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._received = 0
        self._derained = 0
        self._passed_through: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._lost = 0
        self._parts: deque[Parts] = deque(maxlen=WINDOW)
        self._passing_s: deque[float] = deque([0.0], maxlen=PASSING_WINDOW)
        self._ins_s: deque[float] = deque(maxlen=WINDOW)
        self._outs_s: deque[float] = deque(maxlen=WINDOW)
        self._rain_score: float | None = None
        self._last_reason = self._last_error = self._error = ""
        self._error_s = -math.inf
        self._missed_in_row = 0

    @property
    def passing_s(self) -> float:
        """How long it has lately taken, at the most, to pass a frame through that is looked at now."""
        with self._lock:
            return max(self._passing_s)

    def silent_s(self, now_s: float) -> float:
        """Since the last frame came; infinite before the first."""
        with self._lock:
            return now_s - self._ins_s[-1] if self._ins_s else math.inf

    @property
    def expected_s(self) -> float:
        """When the next frame is likely to come, by the pace of the last ones; -inf where there is no telling."""
        with self._lock:
            recent = list(self._ins_s)[-PACE_FRAMES:]
        return recent[-1] + (recent[-1] - recent[0]) / (len(recent) - 1) if len(recent) > 1 else -math.inf

    def count_received(self, now_s: float) -> None:
        """A frame came in."""
        with self._lock:
            self._received += 1
            self._ins_s.append(now_s)

    def count_derained(self, parts: Parts) -> None:
        """A derained frame went out."""
        with self._lock:
            self._derained += 1
            self._parts.append(parts)
            self._note_out(parts)
            self._note_fate("", "")

    def count_passed_through(self, reason: str, error: str = "", parts: Parts | None = None) -> None:
        """The original of a frame went out."""
        with self._lock:
            self._passed_through[reason] += 1
            self._note_out(parts or Parts())
            self._note_fate(reason, error)

    def count_dropped(self, reason: str, error: str = "") -> None:
        """Nothing went out for a frame."""
        with self._lock:
            self._dropped[reason] += 1
            self._note_fate(reason, error)

    def count_missed(self) -> int:
        """A frame missed its deadline; its fate is counted separately. Returns how many did in a row."""
        with self._lock:
            self._missed_in_row += 1
            return self._missed_in_row

    def count_kept(self) -> None:
        """A frame's result came before its deadline."""
        with self._lock:
            self._missed_in_row = 0

    def count_lost(self, frames: int) -> None:
        """The middleware says that frames never arrived."""
        with self._lock:
            self._lost += frames

    def note_score(self, rain_score: float) -> None:
        """What the network found in a frame, whatever becomes of it."""
        with self._lock:
            self._rain_score = rain_score

    def snapshot(self) -> Snapshot:
        """The figures now."""
        now_s = self._clock()
        with self._lock:
            return Snapshot(
                received=self._received,
                derained=self._derained,
                passed_through=MappingProxyType(dict(self._passed_through)),
                dropped=MappingProxyType(dict(self._dropped)),
                lost_in_transport=self._lost,
                rate_in_hz=_rate(self._ins_s, now_s),
                rate_out_hz=_rate(self._outs_s, now_s),
                millis=_percentiles(self._parts),
                rain_score=self._rain_score,
                silent_s=now_s - self._ins_s[-1] if self._ins_s else None,
                last_reason=self._last_reason,
                last_error=self._last_error,
                error=self._error,
                error_age_s=now_s - self._error_s,
                missed_in_row=self._missed_in_row,
            )

    def _note_out(self, parts: Parts) -> None:
        self._outs_s.append(self._clock())
        self._passing_s.append(parts.preprocess_s + parts.postprocess_s + parts.publish_s)

    def _note_fate(self, reason: str, error: str) -> None:
        if error or reason != OVERLOAD:  # which says nothing of how the network is
            self._last_reason, self._last_error = reason, error
        if error:
            self._error, self._error_s = error, self._clock()


def _rate(times_s: Iterable[float], now_s: float) -> float:
    """Frames a second over the last RATE_WINDOW_S, 0 where there were fewer than two."""
    recent = [time_s for time_s in times_s if now_s - time_s <= RATE_WINDOW_S]
    return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0


def _percentiles(parts: Iterable[Parts]) -> Mapping[str, float]:
    columns = zip(PARTS, zip(*map(astuple, parts), strict=True), strict=False)
    return {f"{name}_ms_p{q}": 1e3 * _quantile(sorted(column), q) for name, column in columns for q in PERCENTILES}


def _quantile(ordered: list[float], percent: int) -> float:
    """Nearest-rank percentile of a sorted, non-empty list."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
