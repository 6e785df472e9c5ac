"""Child processes that end with their parent, and when it tells them to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAITING = "import time\nprint('waiting', flush=True)\ntime.sleep(60)\n"


def start(tmp_path: Path, parent: int) -> subprocess.Popen[str]:
    (tmp_path / "waiting.py").write_text(WAITING)
    return subprocess.Popen(
        [sys.executable, "-m", "sapnet.tethered", str(parent), "waiting"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # As all do that a shell runs in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def test_it_heeds_sigint_though_its_parent_ignores_it(tmp_path: Path) -> None:
    with start(tmp_path, os.getpid()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0


def test_it_does_not_begin_without_its_parent(tmp_path: Path) -> None:
    with start(tmp_path, os.getpid() + 1) as process:
        assert process.communicate(timeout=30)[0] == ""
        assert process.returncode == 1
