"""Child processes that never outlive their parent, with what they said at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

TAIL_LINES = 12
STOP_TIMEOUT_S = 10.0


class Processes:
    """Python modules run as processes, by name; leaving the ``with`` block ends them all.

    folder: where their output goes, as ``<name>.log``. environment: of all of them.
    They stand in sessions of their own, so that Ctrl-C reaches them only through us, in order.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def start(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """Run ``python -m module arguments``."""
        command = [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), module, *arguments]
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def exit_code(self, name: str) -> int | None:
        """None while it runs."""
        return self._running[name].poll()

    def last_lines(self, name: str) -> str:
        """The end of what it wrote to stdout and stderr."""
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def stop(self, name: str) -> int:
        """Interrupt it, as Ctrl-C would; kill it where that does not help. Returns its exit status."""
        process = self._running[name]
        process.send_signal(signal.SIGINT)
        return _end(process)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for process in self._running.values():
                process.send_signal(signal.SIGINT)
            for process in self._running.values():
                _end(process)
        finally:
            # Also after another Ctrl-C, which breaks off the waiting above.
            for process in self._running.values():
                process.kill()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
