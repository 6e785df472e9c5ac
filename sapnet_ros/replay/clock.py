"""The playback clock of a recording."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class PlayClock:
    """Recording time in nanoseconds, which runs ``rate`` times as fast as steady time unless it is paused."""

    def __init__(self, rate: float, steady_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.paused = False
        self._rate = rate
        self._steady_ns = steady_ns
        self.set(0)

    def now_ns(self) -> int:
        """The current time."""
        passed_ns = 0 if self.paused else self._steady_ns() - self._set_at_ns
        return self._set_to_ns + int(passed_ns * self._rate)

    def set(self, time_ns: int) -> None:
        """Set the current time."""
        self._set_to_ns, self._set_at_ns = time_ns, self._steady_ns()

    def pause(self, paused: bool) -> None:
        """Stop the clock, or let it go on."""
        self.set(self.now_ns())
        self.paused = paused

    def seconds_until(self, time_ns: int) -> float:
        """Steady seconds until a time; negative if it has passed, infinite while the clock is paused."""
        return math.inf if self.paused else (time_ns - self.now_ns()) / 1e9 / self._rate
