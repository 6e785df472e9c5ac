"""How many threads OpenVINO's network may use, and where they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")

# Derains, and prints how many cores each thread of the process may run on meanwhile.
_PRINT_CORES = """
import sys
from pathlib import Path
from threading import Thread
import numpy as np
from sapnet import Derainer
with Derainer(sys.argv[1], "openvino", threads=1) as derainer:
    frame = np.zeros((240, 320, 3), np.uint8)
    derainer([frame])
    work = Thread(target=lambda: [derainer([frame]) for _ in range(5)])
    work.start()
    while work.is_alive():
        for status in Path("/proc/self/task").glob("*/status"):
            try:
                lines = status.read_text().splitlines()
            except OSError:  # the thread has ended
                continue
            (mask,) = [line.split()[1] for line in lines if line.startswith("Cpus_allowed:")]
            print(int(mask.replace(",", ""), 16).bit_count())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc, as Linux has it")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_limited_threads_are_not_pinned_to_the_cores_of_another_process(tiny_weights: Path) -> None:
    command = [sys.executable, "-c", _PRINT_CORES, str(tiny_weights)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {int(cores) for cores in printed.split()} == {len(os.sched_getaffinity(0))}
