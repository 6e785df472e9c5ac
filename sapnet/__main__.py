"""``python -m sapnet``: the same as the ``sapnet`` command."""

from __future__ import annotations

import sys

from sapnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
