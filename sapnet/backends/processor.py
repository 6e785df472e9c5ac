"""The host's processor: its name, and what decides which arithmetic is fast on it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def processor_name() -> str:
    """For people: the model of the processor, or its architecture where the system does not tell."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (x86; unknown counts as no)."""
    return not _BF16_FLAGS.isdisjoint(_cpuinfo().get("flags", "").split())


@cache
def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        first, _, _ = _CPUINFO.read_text().partition("\n\n")
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
