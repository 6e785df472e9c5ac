"""``python -m sapnet.tethered PARENT MODULE ...``: runs a module in a process that ends when its parent does."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGTERM at the parent's death, however it dies; then become the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Inherited from a shell's background job; our parent ends us by it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
