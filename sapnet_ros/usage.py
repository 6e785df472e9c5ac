"""What this process takes of the machine."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_STATUS = Path("/proc/self/status")


class ProcessUsage:
    """Memory, threads, and processor time since it was last asked."""

    def __init__(self) -> None:
        self._asked_s, self._used_s = time.monotonic(), time.process_time()

    def values(self) -> Mapping[str, float | int]:
        """``memory_mb`` that is resident, ``threads``, ``cpu_percent`` of one core."""
        asked_s, used_s = time.monotonic(), time.process_time()
        share = (used_s - self._used_s) / max(asked_s - self._asked_s, 1e-3)
        self._asked_s, self._used_s = asked_s, used_s
        status = dict(re.findall(r"^(VmRSS|Threads):\s*(\d+)", _STATUS.read_text(), re.MULTILINE))
        return {
            "memory_mb": int(status["VmRSS"]) / 1024,
            "threads": int(status["Threads"]),
            "cpu_percent": 100.0 * share,
            "open_files": len(os.listdir("/proc/self/fd")),
        }


def gpu_memory_mb(device: str) -> float | None:
    """Memory in use on a GPU, by all processes; None where torch has not used one, or cannot tell."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        free, total = torch.cuda.mem_get_info(device if device.startswith("cuda") else None)
    except RuntimeError:  # a GPU that has failed says so to the network; what is told of it must not fail, too
        return None
    return float(total - free) / 2**20
