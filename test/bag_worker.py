"""What tests run in processes of their own, to kill them: a recording derained in small parts."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ctrl_c import heed_ctrl_c

from sapnet.bags import derain as bags
from sapnet.bags.cameras import BagOptions
from sapnet.bags.derain import derain_bag
from sapnet.cli import main
from sapnet.derainer import Derainer

# A part holds a few frames of 64x48.
PART_BYTES = 100_000


def derain(source: Path, output: Path, latency_ms: float = 10.0, **options: Any) -> None:
    """Derain with the fake backend, a part at a time; resumes an interrupted run."""
    slow_network = Derainer(backend="fake", fake={"latency_ms": latency_ms})
    with patch.object(bags, "PART_BYTES", PART_BYTES), slow_network as derainer:
        derain_bag(derainer, source, output, BagOptions(**options), resume=True)


def derain_until_signal(source: Path, output: Path, number: int) -> None:
    """Run ``sapnet bag``, which a signal interrupts after ten frames."""
    heed_ctrl_c()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    derain_bag = bags.derain_bag

    def interrupted(*args: Any, progress: bags.Progress, **options: Any) -> Any:
        def tell(messages: int, total: int, frames: int) -> None:
            if frames == 10:
                os.kill(os.getpid(), number)
            progress(messages, total, frames)

        return derain_bag(*args, progress=tell, **options)

    bags.derain_bag = interrupted  # type: ignore[assignment]
    sys.exit(main(["bag", str(source), "-o", str(output), "--backend", "fake"]))


def peak_kb(source: Path, output: Path) -> int:
    """Derain, and return the peak of this process's memory."""
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, source, output)
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak)
