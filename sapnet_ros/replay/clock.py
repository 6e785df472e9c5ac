"""The playback clock of a recording."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class PlayClock:
    """Recording time in nanoseconds, which runs ``rate`` times as fast as steady time unless it is stopped.

    It may be stopped for several reasons, by name, and resumes when the last of them is gone.
    """

    def __init__(self, rate: float, steady_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._rate = rate
        self._steady_ns = steady_ns
        self._set_to_ns, self._set_at_ns = 0, steady_ns()
        self._reasons: set[str] = set()

    def now_ns(self) -> int:
        """The current time."""
        passed_ns = 0 if self._reasons else self._steady_ns() - self._set_at_ns
        return self._set_to_ns + int(passed_ns * self._rate)

    def set(self, time_ns: int) -> None:
        """Set the current time."""
        self._set_to_ns, self._set_at_ns = time_ns, self._steady_ns()

    def stop(self, reason: str) -> None:
        """Stop the clock for a reason."""
        self.set(self.now_ns())
        self._reasons.add(reason)

    def go_on(self, reason: str) -> None:
        """Remove a reason to be stopped."""
        self.set(self.now_ns())
        self._reasons.discard(reason)

    def is_stopped(self, reason: str) -> bool:
        """Whether the clock is stopped for this reason."""
        return reason in self._reasons

    def seconds_until(self, time_ns: int) -> float:
        """Steady seconds until a time; negative if it has passed, infinite while the clock is stopped."""
        return math.inf if self._reasons else (time_ns - self.now_ns()) / 1e9 / self._rate
