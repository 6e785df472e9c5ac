"""The newest frame of each camera, between the callback that receives and the thread that works."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Condition
from typing import Any

# What a camera may have in line: most of a second of 1280x720 at 30 Hz, and not too many of frames without content.
MAX_WAITING_BYTES = 64 * 2**20
MAX_WAITING_FRAMES = 1000
# What a message takes beside its data and texts.
MESSAGE_BYTES = 2048


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

    @cached_property
    def size_bytes(self) -> int:
        """What it takes while it waits; the texts are as long as a publisher likes."""
        said = getattr(self.message, "encoding", "") or getattr(self.message, "format", "")
        texts = sys.getsizeof(said) + sys.getsizeof(self.message.header.frame_id)
        return len(self.message.data) + texts + MESSAGE_BYTES


class _Line:
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
        """Whether it would be too long with ``frame``; one frame may always wait behind another."""
        if len(self.frames) < 2:
            return False
        too_large = self._held_bytes + frame.size_bytes > MAX_WAITING_BYTES
        return too_large or len(self.frames) >= MAX_WAITING_FRAMES

    def _popped(self, frame: Received) -> Received:
        self._held_bytes -= frame.size_bytes
        return frame


class Mailbox:
    """A line of frames for each camera; any number of threads put, one takes."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._lines: dict[str, _Line] = {camera: _Line() for camera in cameras}
        self._changed = Condition()
        self._news = False
        self.closed = False

    def put(self, frame: Received, keep_overtaken: bool) -> list[Received]:
        """Store the newest frame of its camera. Returns the frames that are lost; a closed mailbox returns ``frame``.

        keep_overtaken: the frame that it overtakes stays in line, to pass through, in order, as long as the line
        is within MAX_WAITING_BYTES and MAX_WAITING_FRAMES; two frames always are.
        """
        with self._changed:
            if self.closed:
                return [frame]
            line, lost = self._lines[frame.camera], []
            if line.frames and keep_overtaken:
                line.frames[-1].overtaken = True
                while line.is_full_for(frame):
                    lost.append(line.pop_oldest())
            elif line.frames:
                lost.append(line.pop_newest())
            line.append(frame)
            self._tell()
            return lost

    def head(self, camera: str) -> Received | None:
        """The oldest frame that waits; a newer one may take its place before it is taken."""
        with self._changed:
            frames = self._lines[camera].frames
            return frames[0] if frames else None

    def take(self, camera: str) -> Received | None:
        """The oldest frame that waits, which does so no longer."""
        with self._changed:
            line = self._lines[camera]
            return line.pop_oldest() if line.frames else None

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
            left = [frame for line in self._lines.values() for frame in line.frames]
            self._lines = {camera: _Line() for camera in self._lines}
            self._tell()
            return left

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()
