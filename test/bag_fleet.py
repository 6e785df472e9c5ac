"""What tests of fleets run beside them: ``sapnet fleet`` on a slow backend, and fleets whose workers begin together."""

from __future__ import annotations

import sys
from typing import Any

from sapnet.cli import main
from sapnet.commands import fleet
from sapnet.fleet.pool import RayPool

LATENCY_MS = 100.0

_idle: Any = RayPool.idle.fget  # type: ignore[attr-defined]


def _idle_once_all_work(pool: Any) -> int:
    pool.begun = getattr(pool, "begun", False) or pool.working == pool.size
    return int(_idle(pool)) if pool.begun else 0


# In place of RayPool.idle: no worker is given a task before all of them can work.
idle_together = property(_idle_once_all_work)


def begin_together() -> None:
    """For the rest of this process."""
    RayPool.idle = idle_together  # type: ignore[method-assign]


def run_slowly(words: list[str]) -> int:
    """``sapnet fleet`` on the fake backend, with a latency, so that there is time to interrupt it."""
    plain = fleet._network
    fleet._network = lambda args: {**plain(args), "options": {"latency_ms": LATENCY_MS}}
    return main(["fleet", *words])


if __name__ == "__main__":
    sys.exit(run_slowly(sys.argv[1:]))
