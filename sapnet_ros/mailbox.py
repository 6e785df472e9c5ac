"""The newest frame of each camera, between the callback that receives and the thread that works."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Any

# Of the frames that a camera may have in line: most of a second of 1280x720 at 30 Hz.
MAX_WAITING_BYTES = 64 * 2**20


@dataclass(eq=False)
class Received:
    """A message of a camera as it came in; ``received_s`` is steady time.

    overtaken: a newer frame came before this one's turn, and it is to pass through.
    """

    camera: str
    message: Any
    received_s: float
    overtaken: bool = False

    @property
    def declared_size(self) -> tuple[int, int] | None:
        """Height, width by the message's fields; None for a compressed one, whose size shows when it is decoded."""
        return (self.message.height, self.message.width) if hasattr(self.message, "height") else None


class Mailbox:
    """A line of frames for each camera; any number of threads put, one takes."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._waiting: dict[str, deque[Received]] = {camera: deque() for camera in cameras}
        self._changed = Condition()
        self._news = False
        self.closed = False

    def put(self, frame: Received, keep_overtaken: bool) -> list[Received]:
        """Store the newest frame of its camera. Returns the frames that are lost; a closed mailbox returns ``frame``.

        keep_overtaken: the frame that it overtakes stays in line, to pass through, in order, as long as the line
        is within MAX_WAITING_BYTES; two frames always are.
        """
        with self._changed:
            if self.closed:
                return [frame]
            waiting, lost = self._waiting[frame.camera], []
            if waiting and keep_overtaken:
                waiting[-1].overtaken = True
                held = sum(len(one.message.data) for one in waiting) + len(frame.message.data)
                while len(waiting) > 1 and held > MAX_WAITING_BYTES:
                    lost.append(waiting.popleft())
                    held -= len(lost[-1].message.data)
            elif waiting:
                lost.append(waiting.pop())
            waiting.append(frame)
            self._tell()
            return lost

    def head(self, camera: str) -> Received | None:
        """The oldest frame that waits; a newer one may take its place before it is taken."""
        with self._changed:
            waiting = self._waiting[camera]
            return waiting[0] if waiting else None

    def take(self, camera: str) -> Received | None:
        """The oldest frame that waits, which does so no longer."""
        with self._changed:
            waiting = self._waiting[camera]
            return waiting.popleft() if waiting else None

    def wait(self, timeout_s: float | None) -> None:
        """Until something has come, or was told by ``wake``, since the last wait ended; at most ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._news, timeout_s)
            self._news = False

    def wake(self) -> None:
        """End the wait."""
        with self._changed:
            self._tell()

    def close(self) -> list[Received]:
        """Take no more frames; returns those that nobody took, and ends the wait."""
        with self._changed:
            self.closed = True
            left = [frame for waiting in self._waiting.values() for frame in waiting]
            for waiting in self._waiting.values():
                waiting.clear()
            self._tell()
            return left

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()
