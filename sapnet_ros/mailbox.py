"""The newest frame of each camera, between the callback that receives and the thread that infers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Any

# Of the frames that a camera may have in line: most of a second of 1280x720 at 30 Hz.
MAX_WAITING_BYTES = 64 * 2**20


@dataclass
class Received:
    """A message of a camera as it came in; ``received_s`` is steady time.

    overtaken: a newer frame came before this one's turn, and it is to pass through.
    """

    camera: str
    message: Any
    received_s: float
    overtaken: bool = False


class Mailbox:
    """One slot per camera, emptied in turn so that no camera starves another."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._waiting: dict[str, deque[Received]] = {camera: deque() for camera in cameras}
        self._turns = deque(cameras)
        self._changed = Condition()
        self._closed = False

    def put(self, frame: Received, keep_overtaken: bool) -> Received | None:
        """Store the newest frame of its camera.

        keep_overtaken: the frame that it overtakes stays in line, to pass through, in order, as long as the line
        is within MAX_WAITING_BYTES; two frames always are. Returns the frame that is lost, if any; a closed
        mailbox returns ``frame``.
        """
        with self._changed:
            if self._closed:
                return frame
            waiting = self._waiting[frame.camera]
            lost = None
            if waiting and keep_overtaken:
                waiting[-1].overtaken = True
                held = sum(len(one.message.data) for one in waiting) + len(frame.message.data)
                if len(waiting) > 1 and held > MAX_WAITING_BYTES:
                    lost = waiting.popleft()
            elif waiting:
                lost = waiting.pop()
            waiting.append(frame)
            self._changed.notify()
            return lost

    def take(self) -> Received | None:
        """The next frame, cameras in turn; waits for one. None once the mailbox is closed."""
        with self._changed:
            while not self._closed:
                for _ in range(len(self._turns)):
                    self._turns.rotate(-1)
                    waiting = self._waiting[self._turns[-1]]
                    if waiting:
                        return waiting.popleft()
                self._changed.wait()
            return None

    def close(self) -> list[Received]:
        """Let ``take`` return None from now on; returns the frames that nobody took."""
        with self._changed:
            self._closed = True
            left = [frame for waiting in self._waiting.values() for frame in waiting]
            for waiting in self._waiting.values():
                waiting.clear()
            self._changed.notify_all()
            return left
