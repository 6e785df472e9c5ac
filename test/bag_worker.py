"""What tests run in processes of their own, to kill them: a recording derained in small parts."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from ctrl_c import heed_ctrl_c

from sapnet.bags import derain as bags
from sapnet.bags import pipeline as steps
from sapnet.bags.derain import derain_bag
from sapnet.bags.options import BagOptions
from sapnet.cli import main
from sapnet.derainer import Derainer
from sapnet.errors import BagError

# A part holds a few frames of 64x48.
PART_BYTES = 100_000


def derain(source: Path, output: Path, latency_ms: float = 10.0, **options: Any) -> None:
    """Derain with the fake backend, a part at a time; resumes an interrupted run."""
    bags.PART_BYTES = PART_BYTES
    with Derainer(backend="fake", fake={"latency_ms": latency_ms}) as derainer:
        derain_bag(derainer, source, output, BagOptions(**options), resume=True)


def derain_with_small_files(source: Path, output: Path, limit: int, storage: str) -> None:
    """Derain where no file may grow beyond so many bytes; exit with the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        derain(source, output, latency_ms=0.0, storage=storage)
    except BagError as err:
        output.with_name("said").write_text(str(err))
        sys.exit(1)


def derain_until_signal(source: Path, output: Path, number: int) -> None:
    """Run ``sapnet bag``, which a signal interrupts after ten frames."""
    heed_ctrl_c()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    made = bags.Progressed

    def progressed(messages: int, total: int, frames: int) -> bags.Progressed:
        if frames == 10:
            os.kill(os.getpid(), number)
        return made(messages, total, frames)

    bags.Progressed = progressed  # type: ignore[assignment, misc]
    sys.exit(main(["bag", str(source), "-o", str(output), "--backend", "fake"]))


def derain_and_tell_peak(source: Path, output: Path) -> None:
    """Derain, and print the peak of this process's memory in kB."""
    # Less than the short recording: how much of it was read ahead would depend on the machine's other work.
    steps.AHEAD_BYTES = 2 * 2**20
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, source, output)
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    print(peak)
