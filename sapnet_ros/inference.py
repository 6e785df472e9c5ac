"""Calls of the network, and the thread that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread

from sapnet.derainer import Derained, Derainer
from sapnet.errors import describe
from sapnet_ros.fate import Received
from sapnet_ros.loader import FAILURES


class Call:
    """A call of the network on frames of equal size.

    Once ``ended_s`` is set there are ``results``, one for each frame, or an ``error`` text. Times are steady.
    """

    def __init__(self, derainer: Derainer, batch: Sequence[Received], clock: Callable[[], float]) -> None:
        self.derainer = derainer
        self.batch = batch
        self._clock = clock
        self.started_s = clock()
        self.ended_s: float | None = None
        self.results: Sequence[Derained | None] = [None] * len(batch)
        self.error = ""

    def run(self) -> None:
        """Derain."""
        try:
            self.results = self.derainer([frame.decoded.bgr for frame in self.batch])
        except FAILURES as err:
            self.error = describe(err)
        self.ended_s = self._clock()


class Inference:
    """Runs calls of the network on its own thread, so that one that hangs blocks nothing else.

    on_end: called on that thread after each call.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self.thread = Thread(target=self._run, name="inference", daemon=True)
        self.thread.start()

    def start(self, call: Call) -> None:
        """Run a call after the earlier ones."""
        self._calls.put(call)

    def close(self) -> None:
        """End the thread after the last call; if that hangs, it never ends."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            self._on_end()
