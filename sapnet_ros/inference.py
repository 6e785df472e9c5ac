"""The thread that runs the network, apart from the one that publishes: a call that hangs must hold up nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from sapnet.derainer import Derained, Derainer
from sapnet.errors import describe
from sapnet.images.frame import Frame
from sapnet.images.messages import Decoded
from sapnet_ros.mailbox import Received
from sapnet_ros.stats import Parts


@dataclass(eq=False)
class InHand:
    """A frame that was taken from its line and waits for its result."""

    frame: Received
    decoded: Decoded
    parts: Parts

    @property
    def size(self) -> tuple[int, int]:
        """Height, width."""
        height, width = self.decoded.bgr.shape[:2]
        return height, width


class Call:
    """Frames of equal size on their way through the network.

    Once ``ended_s`` is set there are ``results``, one for each frame, or an ``error`` for people. Times are steady.
    """

    def __init__(
        self, derainer: Derainer, frames: Sequence[Frame], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.derainer = derainer
        self.frames = frames
        self._clock = clock
        self.started_s = clock()
        self.ended_s: float | None = None
        self.results: list[Derained] = []
        self.error = ""

    def run(self) -> None:
        """Derain; raises nothing."""
        try:
            self.results = self.derainer(self.frames)
        except Exception as err:  # a backend's library may raise anything, and no frame may kill the node
            self.error = describe(err)
        self.ended_s = self._clock()


class Inference:
    """Runs one call after another on a thread of its own.

    on_end: told, on that thread, that a call has ended. keep_thread: gets the thread.
    """

    def __init__(self, on_end: Callable[[], None], keep_thread: Callable[[Thread], None]) -> None:
        self._on_end = on_end
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self.thread = Thread(target=self._run, name="inference", daemon=True)
        keep_thread(self.thread)
        self.thread.start()

    def start(self, call: Call) -> None:
        """Run it as soon as those before it have ended."""
        self._calls.put(call)

    def close(self) -> None:
        """End the thread after the calls that were started, or never, where one hangs."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            self._on_end()
