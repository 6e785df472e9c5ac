"""The time of a recording while it is played."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class PlayClock:
    """Nanoseconds of a recording's time, which passes ``rate`` times as fast as steady time, unless it is stopped.

    There may be several reasons to stop it, by name; it goes on once all are gone.
    """

    def __init__(self, rate: float, steady_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._rate = rate
        self._steady_ns = steady_ns
        self._set_to_ns, self._set_at_ns = 0, steady_ns()
        self._reasons: set[str] = set()

    def now_ns(self) -> int:
        """The time."""
        passed_ns = 0 if self._reasons else self._steady_ns() - self._set_at_ns
        return self._set_to_ns + int(passed_ns * self._rate)

    def set(self, time_ns: int) -> None:
        """Have it be this time now."""
        self._set_to_ns, self._set_at_ns = time_ns, self._steady_ns()

    def stop(self, reason: str) -> None:
        """Stand still for a reason."""
        self.set(self.now_ns())
        self._reasons.add(reason)

    def go_on(self, reason: str) -> None:
        """Stand still no longer for that reason."""
        self.set(self.now_ns())
        self._reasons.discard(reason)

    def is_stopped(self, reason: str) -> bool:
        """Whether it stands still for that reason."""
        return reason in self._reasons

    def seconds_until(self, time_ns: int) -> float:
        """Steady seconds; below 0 where that has passed, infinite while it stands still."""
        return math.inf if self._reasons else (time_ns - self.now_ns()) / 1e9 / self._rate
