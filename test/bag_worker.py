"""What tests run in processes of their own, to kill them: a recording derained in small parts."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from sapnet.bags import journal as parts
from sapnet.bags import pipeline as steps
from sapnet.bags.derain import derain_bag
from sapnet.bags.options import BagOptions
from sapnet.derainer import Derainer

# A part holds a few frames of 64x48.
PART_BYTES = 100_000


def derain(source: Path, output: Path, latency_ms: float = 10.0, **options: Any) -> None:
    """Derain with the fake backend, a part at a time; resumes an interrupted run."""
    parts.PART_BYTES = PART_BYTES
    with Derainer(backend="fake", fake={"latency_ms": latency_ms}) as derainer:
        derain_bag(derainer, source, output, BagOptions(**options), resume=True)


def derain_with_small_files(source: Path, output: Path, limit: int) -> None:
    """Derain where no file may grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    derain(source, output, latency_ms=0.0)


def derain_and_tell_peak(source: Path, output: Path) -> None:
    """Derain, and print the peak of this process's memory in kB."""
    # Less than the short recording: how much of it was read ahead would depend on the machine's other work.
    steps.AHEAD_BYTES = 2 * 2**20
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, source, output)
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    print(peak)
