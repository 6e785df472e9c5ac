"""Whether a backend that hangs is started anew, and when."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Thread

# A backend that hangs is started anew after so long, then twice that, and so on; after so many times, no more.
FIRST_PAUSE_S = 1.0
MAX_RESTARTS = 5
# A backend that has worked for so long after a restart may hang as often again ...
FORGIVEN_AFTER_S = 60.0
# ... but each call that never returns keeps a thread and a network: so many of them are the end.
MAX_LEFT_BEHIND = 5


class Restarts:
    """The restarts of one backend. clock: steady seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.count = 0
        self._clock = clock
        self._tries = 0  # in a row
        self._working_since_s: float | None = None  # since the last restart
        self._not_before_s = -math.inf
        self._left_behind: list[Thread] = []

    @property
    def pause_s(self) -> float:
        """How long to wait yet before loading."""
        return max(0.0, self._not_before_s - self._clock())

    @property
    def trying(self) -> bool:
        """Whether the backend was restarted and has not proved itself since."""
        return self._tries > 0

    def leave_behind(self, thread: Thread) -> None:
        """A call hangs in this thread."""
        self._left_behind.append(thread)

    def plan(self, error: str) -> tuple[bool, str]:
        """Whether to load anew after ``error``, and what to say."""
        self._working_since_s = None
        self._left_behind = [thread for thread in self._left_behind if thread.is_alive()]
        why_not = ""
        if self._tries == MAX_RESTARTS:
            why_not = f"after {MAX_RESTARTS} restarts"
        elif len(self._left_behind) >= MAX_LEFT_BEHIND:
            why_not = f"{len(self._left_behind)} calls have never returned"
        if why_not:
            return False, f"{error}, {why_not}: given up; clean up and configure to try again"
        delay_s = FIRST_PAUSE_S * 2**self._tries
        self._not_before_s = self._clock() + delay_s
        self._tries += 1
        self.count += 1
        return True, f"{error}; starting it anew in {delay_s:g} s (try {self._tries} of {MAX_RESTARTS})"

    def note_working(self) -> None:
        """The backend has derained frames."""
        now_s = self._clock()
        if self._working_since_s is None:
            self._working_since_s = now_s
        elif self._tries and now_s - self._working_since_s > FORGIVEN_AFTER_S:
            self._tries = 0
