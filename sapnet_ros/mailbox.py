"""Queues of frames between the callbacks that receive them and the thread that handles them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from threading import Event, Lock

from sapnet_ros.fate import Received

# The queue of one camera: most of a second of 1280x720 at 30 Hz, and a bound for frames without content.
MAX_WAITING_BYTES = 64 * 2**20
MAX_WAITING_FRAMES = 1000
MESSAGE_BYTES = 2048  # of a message, beside its data


class Mailbox:
    """A queue of frames for each camera, the oldest first; any number of threads put, one takes."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._queues: dict[str, deque[Received]] = {camera: deque() for camera in cameras}
        self._lock = Lock()
        self._news = Event()
        self.closed = False

    def put(self, frame: Received, keep_overtaken: bool) -> list[Received]:
        """Store the newest frame of its camera. Returns the frames that are lost; a closed mailbox returns ``frame``.

        keep_overtaken: the frame that it overtakes stays queued, to pass through, in order, as long as the queue
        is within MAX_WAITING_BYTES and MAX_WAITING_FRAMES; two frames always are.
        """
        with self._lock:
            if self.closed:
                return [frame]
            queue, lost = self._queues[frame.camera], []
            if queue and keep_overtaken:
                queue[-1].overtaken = True
            elif queue:
                lost.append(queue.pop())
            queue.append(frame)
            while len(queue) > 2 and (len(queue) > MAX_WAITING_FRAMES or _memory(queue) > MAX_WAITING_BYTES):
                lost.append(queue.popleft())
            self._news.set()
            return lost

    def head(self, camera: str) -> Received | None:
        """The oldest frame that waits; a newer one may take its place before it is taken."""
        with self._lock:
            queue = self._queues[camera]
            return queue[0] if queue else None

    def take(self, frame: Received) -> bool:
        """Take a frame out of its queue; False where it is no longer the oldest there."""
        with self._lock:
            queue = self._queues[frame.camera]
            if not queue or queue[0] is not frame:
                return False
            queue.popleft()
            return True

    def wait(self, timeout_s: float | None) -> None:
        """Return once a frame has come or ``wake`` was called since the last wait ended, or after ``timeout_s``."""
        self._news.wait(timeout_s)
        self._news.clear()

    def wake(self) -> None:
        """End the wait."""
        self._news.set()

    def close(self) -> list[Received]:
        """Accept no more frames, and end the wait. Returns the frames that nobody took."""
        with self._lock:
            self.closed = True
            left = [frame for queue in self._queues.values() for frame in queue]
            self._queues = {camera: deque() for camera in self._queues}
            self._news.set()
            return left


def _memory(frames: Iterable[Received]) -> int:
    """Bytes that frames take in a queue, about."""
    return sum(len(frame.message.data) + MESSAGE_BYTES for frame in frames)
