"""The one thread that infers and publishes."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from sapnet_ros.mailbox import Mailbox, Received


class Worker:
    """Hands every frame of a mailbox, with the mailbox, to ``handle``, one after another, until it is closed.

    on_error: gets what ``handle`` raised too; the thread goes on.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        handle: Callable[[Mailbox, Received], None],
        on_error: Callable[[Mailbox, Received, Exception], None],
    ) -> None:
        self._mailbox = mailbox
        self._handle = handle
        self._on_error = on_error
        self.thread = Thread(target=self._run, name="worker", daemon=True)
        self.thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the frame in hand, after the mailbox was closed; False if it is still not done."""
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def _run(self) -> None:
        while (frame := self._mailbox.take()) is not None:
            try:
                self._handle(self._mailbox, frame)
            except Exception as err:
                self._on_error(self._mailbox, frame, err)
