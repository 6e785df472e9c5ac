"""For processes that tests interrupt."""

from __future__ import annotations

import signal


def heed_ctrl_c() -> None:
    """To be called in a new process: a shell's background job ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
