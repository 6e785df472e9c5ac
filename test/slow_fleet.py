"""``sapnet fleet`` on a fake backend with a latency, so that tests have time to interrupt it."""

from __future__ import annotations

import sys

from sapnet.cli import main
from sapnet.commands import fleet

LATENCY_MS = 200.0

if __name__ == "__main__":
    plain = fleet._network
    fleet._network = lambda args: {**plain(args), "fake": {"latency_ms": LATENCY_MS}}
    sys.exit(main(["fleet", *sys.argv[1:]]))
