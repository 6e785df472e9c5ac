"""The two threads of the node: one decides on every frame and publishes, the other runs the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread

from sapnet_ros.batching import Call
from sapnet_ros.camera import Camera
from sapnet_ros.dispatch import NEVER, Dispatch
from sapnet_ros.fate import OVERLOAD, SHUTDOWN, make_decoder
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Mailbox, Received
from sapnet_ros.params import NodeParams


class Inference:
    """Runs calls of the network on a thread of its own, so that one that hangs holds up nothing.

    on_end: called on that thread when a call has ended. keep_thread: gets the thread.
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
        """End the thread after the calls that were started; where one hangs, it never ends."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            self._on_end()


class Worker:
    """Takes the frames of all cameras to their fates until it is closed.

    params: the current parameters. log_error: gets a kind of error and its text. keep_thread: gets every thread that
    is made.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        loader: Loader,
        params: Callable[[], NodeParams],
        log_error: Callable[[str, str], None],
        keep_thread: Callable[[Thread], None],
    ) -> None:
        self._cameras = cameras
        self._params = params
        self._mailbox = mailbox = Mailbox(tuple(cameras))
        self._dispatch = Dispatch(
            cameras,
            mailbox,
            loader,
            params,
            make_decoder(params(), keep_thread),
            log_error,
            make_inference=lambda: Inference(mailbox.wake, keep_thread),
        )
        self._give_up_s = NEVER
        self.thread = Thread(target=self._run, name="worker", daemon=True)
        keep_thread(self.thread)
        self.thread.start()

    def put(self, frame: Received) -> None:
        """A frame has come, and was counted as received."""
        for lost in self._mailbox.put(frame, self._params().on_overload == "passthrough"):
            self._cameras[lost.camera].stats.count_dropped(SHUTDOWN if lost is frame else OVERLOAD)

    def wake(self) -> None:
        """Something has changed that takes effect at once, such as a parameter."""
        self._mailbox.wake()

    def close(self, timeout_s: float) -> None:
        """Drop what is queued, and end when the call of the network has, or after ``timeout_s``.

        Every frame that was put has its fate afterwards.
        """
        self._give_up_s = time.monotonic() + timeout_s
        for frame in self._mailbox.close():
            self._cameras[frame.camera].stats.count_dropped(SHUTDOWN)
        self.thread.join(timeout_s + 1.0)

    def _run(self) -> None:
        while not self._mailbox.closed or self._dispatch.calling:
            next_s = min(self._dispatch.step(), self._give_up_s)
            if self._mailbox.closed and (not self._dispatch.calling or time.monotonic() >= self._give_up_s):
                break
            self._mailbox.wait(None if next_s == NEVER else max(0.0, next_s - time.monotonic()))
        self._dispatch.end()
