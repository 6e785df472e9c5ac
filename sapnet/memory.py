"""Keeps the C library from returning freed memory, for processes that allocate large arrays all the time."""

from __future__ import annotations

import ctypes

# Of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER, _PAD = 2**31 - 1, 2**28


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next array, for the rest of the process; returns whether that worked.

    By default every array of some size is mapped anew and its pages cleared by the kernel, which takes as much time
    as the arithmetic of a training on two cores, and most of the time that a node takes to publish a frame.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # One arena: what one thread frees another can have, so that the process does not grow by what each once needed.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _PAD))
    return all(mallopt(name, value) for name, value in settings)
