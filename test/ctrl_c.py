"""For processes that tests interrupt."""

from __future__ import annotations

import signal


def heed_ctrl_c() -> None:
    """To be called in a new process: background jobs ignore SIGINT and nohup SIGHUP, and so would all they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
