"""Logging: the network's messages in the ROS log, and no flood of equal lines."""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import Any

INTERVAL_S = 10.0


class RosHandler(logging.Handler):
    """Passes records of Python's ``logging`` on to a ROS logger."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log at the severity of the record."""
        text = self.format(record)
        # Each severity needs its own call site: rclpy refuses one whose severity changes.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


class Throttle:
    """Lets one line of each kind through every INTERVAL_S seconds. May be used from any thread."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = Lock()
        self._last_s: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def allow(self, kind: str) -> int | None:
        """How many lines of this kind were held back since the last one, or None to hold this one back too."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._last_s.get(kind, -self._interval_s) < self._interval_s:
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return None
            self._last_s[kind] = now_s
            return self._suppressed.pop(kind, 0)
