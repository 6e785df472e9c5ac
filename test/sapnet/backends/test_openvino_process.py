"""What OpenVINO does to the process that it runs in, and to the user's home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")

# Says whether a signal is handled after backends have come and gone, as OpenVINO gives the thread a stack for signal
# handlers. Then derains, and prints how many cores each thread of the process may run on meanwhile.
_PROGRAM = """
import os, signal, sys
from contextlib import suppress
from threading import Thread
import numpy as np
import psutil
from sapnet import Derainer
from sapnet.backends import BackendSpec, create_backend
backends = [create_backend("openvino", BackendSpec()) for _ in range(2)]
while backends:
    backends.pop(0).close()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
with Derainer(sys.argv[1], "openvino", threads=1) as derainer:
    frame = np.zeros((240, 320, 3), np.uint8)
    derainer([frame])
    work = Thread(target=lambda: [derainer([frame]) for _ in range(5)])
    work.start()
    while work.is_alive():
        for thread in psutil.Process().threads():
            with suppress(ProcessLookupError):  # it has ended
                print(len(os.sched_getaffinity(thread.id)))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="asks for cores by thread, as Linux can")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_signals_survive_threads_are_not_pinned_and_the_home_folder_is_left_alone(
    tiny_weights: Path, tmp_path: Path
) -> None:
    # OpenVINO's telemetry would be silent in CI.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tiny_weights)],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    handled, *cores = done.stdout.split()
    assert handled == "handled"
    # Those of every other process run on the first cores too.
    assert {int(count) for count in cores} == {len(os.sched_getaffinity(0))}
    assert list(tmp_path.iterdir()) == []
