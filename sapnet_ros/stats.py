"""Counts a camera's frames by outcome, and measures their latency."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import astuple, fields
from threading import Lock
from typing import Any

import numpy as np

from sapnet_ros.fate import OVERLOAD, Parts

WINDOW = 300  # frames whose latency is remembered
PASSING_WINDOW = 30  # frames that the time to pass one through is estimated from
RATE_WINDOW_S = 5.0
PACE_FRAMES = 8  # that the next frame's time is estimated from
PERCENTILES = (50, 95, 99)


class CameraStats:
    """Counts of one camera; every method may be called from any thread. clock: steady seconds.

    received = derained + passed_through + dropped + in_flight; the two in between are by reason.
    last_fate: why the last frame was not derained, and its error, read as one; both are empty if it was derained.
    error: the last error of any frame. rain_score: of the last frame that has one, whatever its outcome.
    missed_in_row: frames that missed their deadline since the last one that did not.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.received = self.derained = self.missed_in_row = 0
        self.passed_through: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.last_fate, self.error = ("", ""), ""
        self.rain_score: float | None = None
        self._clock = clock
        self._lock = Lock()
        self._parts: deque[Parts] = deque(maxlen=WINDOW)
        self._passing_s: deque[float] = deque([0.0], maxlen=PASSING_WINDOW)
        self._ins_s: deque[float] = deque(maxlen=WINDOW)
        self._outs_s: deque[float] = deque(maxlen=WINDOW)
        self._error_s = -math.inf

    @property
    def passing_s(self) -> float:
        """The longest that passing a frame through has recently taken."""
        with self._lock:
            return max(self._passing_s)

    def silent_s(self, now_s: float) -> float:
        """Seconds since the last frame; infinite before the first."""
        with self._lock:
            return now_s - self._ins_s[-1] if self._ins_s else math.inf

    @property
    def expected_s(self) -> float:
        """Steady time at which the next frame is expected, from the last ones; -inf if unknown."""
        with self._lock:
            recent = list(self._ins_s)[-PACE_FRAMES:]
        return recent[-1] + (recent[-1] - recent[0]) / (len(recent) - 1) if len(recent) > 1 else -math.inf

    def count_received(self, now_s: float) -> None:
        """Count a frame received."""
        with self._lock:
            self.received += 1
            self._ins_s.append(now_s)

    def count_published(self, parts: Parts, reason: str = "", error: str = "") -> None:
        """Count a frame published. reason: why it passed through; empty for a derained one."""
        with self._lock:
            if reason:
                self.passed_through[reason] += 1
            else:
                self.derained += 1
                self._parts.append(parts)
            self._outs_s.append(self._clock())
            self._passing_s.append(parts.preprocess_s + parts.postprocess_s + parts.publish_s)
            self._note_fate(reason, error)

    def count_dropped(self, reason: str, error: str = "") -> None:
        """Count a frame dropped."""
        with self._lock:
            self.dropped[reason] += 1
            self._note_fate(reason, error)

    def values(self) -> dict[str, Any]:
        """The figures now, under their names in diagnostics; latencies are those of derained frames."""
        now_s = self._clock()
        with self._lock:
            passed_through, dropped = self.passed_through.total(), self.dropped.total()
            values: dict[str, Any] = {
                "rate_in_hz": _rate(self._ins_s, now_s),
                "rate_out_hz": _rate(self._outs_s, now_s),
                "received": self.received,
                "derained": self.derained,
                "passed_through": passed_through,
                "dropped": dropped,
                "in_flight": self.received - self.derained - passed_through - dropped,
                "missed_in_row": self.missed_in_row,
                **{f"passed_through_{reason}": count for reason, count in self.passed_through.items()},
                **{f"dropped_{reason}": count for reason, count in self.dropped.items()},
                **_percentiles(self._parts),
            }
            if self.rain_score is not None:
                values["rain_score"] = self.rain_score
            if self._ins_s:
                values["silent_s"] = now_s - self._ins_s[-1]
            if self.error:
                values |= {"last_error": self.error, "last_error_age_s": now_s - self._error_s}
            return values

    def _note_fate(self, reason: str, error: str) -> None:
        if error or reason != OVERLOAD:  # which is no sign of the network's state
            self.last_fate = reason, error
        if error:
            self.error, self._error_s = error, self._clock()


def _rate(times_s: Iterable[float], now_s: float) -> float:
    """Frames per second over the last RATE_WINDOW_S; 0 for fewer than two frames."""
    recent = [time_s for time_s in times_s if now_s - time_s <= RATE_WINDOW_S]
    return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0


def _percentiles(parts: Collection[Parts]) -> Mapping[str, float]:
    if not parts:
        return {}
    seconds = np.percentile([astuple(one) for one in parts], PERCENTILES, axis=0, method="inverted_cdf")
    return {
        f"{part.name.removesuffix('_s')}_ms_p{percent}": 1e3 * float(second)
        for part, column in zip(fields(Parts), seconds.T, strict=True)
        for percent, second in zip(PERCENTILES, column, strict=True)
    }
