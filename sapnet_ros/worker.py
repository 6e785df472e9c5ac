"""The two threads of the node: one dispatches and publishes frames, the other runs the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Thread

from sapnet_ros.batching import Inference
from sapnet_ros.camera import Camera
from sapnet_ros.dispatch import NEVER, Dispatch
from sapnet_ros.fate import OVERLOAD, SHUTDOWN, make_decoder
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Mailbox, Received
from sapnet_ros.params import NodeParams


class Worker:
    """Settles the frames of all cameras until it is closed.

    params: returns the current parameters. log_error: receives a kind of error and its text. keep_thread: receives
    every thread that is started.
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
            make_decoder(params()),
            log_error,
            make_inference=lambda: Inference(mailbox.wake, keep_thread),
        )
        self._give_up_s = NEVER
        self.thread = Thread(target=self._run, name="worker", daemon=True)
        keep_thread(self.thread)
        self.thread.start()

    def put(self, frame: Received) -> None:
        """Queue a frame, which was counted as received."""
        for lost in self._mailbox.put(frame, self._params().on_overload == "passthrough"):
            self._cameras[lost.camera].stats.count_dropped(SHUTDOWN if lost is frame else OVERLOAD)

    def wake(self) -> None:
        """Reconsider all frames, after a change that takes effect at once."""
        self._mailbox.wake()

    def close(self, timeout_s: float) -> None:
        """Drop queued frames, and end after the current call of the network, or after ``timeout_s``.

        Every frame is settled afterwards.
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
