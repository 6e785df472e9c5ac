"""The one thread that infers and publishes."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from sapnet_ros.mailbox import Mailbox, Received


class Worker:
    """Hands every frame of a mailbox to ``handle``, one after another, until the mailbox is closed.

    on_error: gets what ``handle`` raised and for which frame; the thread goes on.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        handle: Callable[[Received], None],
        on_error: Callable[[Received, Exception], None],
    ) -> None:
        self._mailbox = mailbox
        self._handle = handle
        self._on_error = on_error
        self._thread = Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the frame in hand, after the mailbox was closed; False if it is still not done."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (frame := self._mailbox.take()) is not None:
            try:
                self._handle(frame)
            except Exception as err:
                self._on_error(frame, err)
