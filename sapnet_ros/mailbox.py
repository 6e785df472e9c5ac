"""The queues between the callbacks that receive frames and the thread that handles them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Condition
from typing import Any

# The queue of one camera: most of a second of 1280x720 at 30 Hz, and a bound for frames without content.
MAX_WAITING_BYTES = 64 * 2**20
MAX_WAITING_FRAMES = 1000
# Of a message, beside its data and texts.
MESSAGE_BYTES = 2048


@dataclass(eq=False)
class Received:
    """A message of a camera as it came in; ``received_s`` is steady time.

    overtaken: a newer frame came before this one's turn, and it is to pass through.
    size: height, width by the header of the image, once that was read.
    """

    camera: str
    message: Any
    received_s: float
    overtaken: bool = False
    size: tuple[int, int] | None = None

    @cached_property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits; the texts are as long as a publisher likes."""
        said = getattr(self.message, "encoding", "") or getattr(self.message, "format", "")
        texts = sys.getsizeof(said) + sys.getsizeof(self.message.header.frame_id)
        return len(self.message.data) + texts + MESSAGE_BYTES


class _Queue:
    """Frames of one camera, the oldest first."""

    def __init__(self) -> None:
        self.frames: deque[Received] = deque()
        self._held_bytes = 0

    def append(self, frame: Received) -> None:
        self.frames.append(frame)
        self._held_bytes += frame.size_bytes

    def pop_oldest(self) -> Received:
        return self._popped(self.frames.popleft())

    def pop_newest(self) -> Received:
        return self._popped(self.frames.pop())

    def is_full_for(self, frame: Received) -> bool:
        """Whether ``frame`` is too much for it; one frame may always wait behind another."""
        if len(self.frames) < 2:
            return False
        too_large = self._held_bytes + frame.size_bytes > MAX_WAITING_BYTES
        return too_large or len(self.frames) >= MAX_WAITING_FRAMES

    def _popped(self, frame: Received) -> Received:
        self._held_bytes -= frame.size_bytes
        return frame


class Mailbox:
    """A queue of frames for each camera; any number of threads put, one takes."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._queues: dict[str, _Queue] = {camera: _Queue() for camera in cameras}
        self._changed = Condition()
        self._news = False
        self.closed = False

    def put(self, frame: Received, keep_overtaken: bool) -> list[Received]:
        """Store the newest frame of its camera. Returns the frames that are lost; a closed mailbox returns ``frame``.

        keep_overtaken: the frame that it overtakes stays queued, to pass through, in order, as long as the queue
        is within MAX_WAITING_BYTES and MAX_WAITING_FRAMES; two frames always are.
        """
        with self._changed:
            if self.closed:
                return [frame]
            queue, lost = self._queues[frame.camera], []
            if queue.frames and keep_overtaken:
                queue.frames[-1].overtaken = True
                while queue.is_full_for(frame):
                    lost.append(queue.pop_oldest())
            elif queue.frames:
                lost.append(queue.pop_newest())
            queue.append(frame)
            self._tell()
            return lost

    def head(self, camera: str) -> Received | None:
        """The oldest frame that waits; a newer one may take its place before it is taken."""
        with self._changed:
            frames = self._queues[camera].frames
            return frames[0] if frames else None

    def take(self, frame: Received) -> bool:
        """Take a frame out of its queue; False where it is no longer the oldest there."""
        with self._changed:
            queue = self._queues[frame.camera]
            if not queue.frames or queue.frames[0] is not frame:
                return False
            queue.pop_oldest()
            return True

    def wait(self, timeout_s: float | None) -> None:
        """Return once a frame has come or ``wake`` was called since the last wait ended, or after ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._news, timeout_s)
            self._news = False

    def wake(self) -> None:
        """End the wait."""
        with self._changed:
            self._tell()

    def close(self) -> list[Received]:
        """Accept no more frames, and end the wait. Returns the frames that nobody took."""
        with self._changed:
            self.closed = True
            left = [frame for queue in self._queues.values() for frame in queue.frames]
            self._queues = {camera: _Queue() for camera in self._queues}
            self._tell()
            return left

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()
