"""Tables in Markdown: printed row by row, or put into docs/benchmarks.md between the comments that name them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]  # runs from a checkout that is not installed, too
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def print_row(*cells: str) -> None:
    """Print a row as soon as it is measured."""
    print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", flush=True)


def print_head(*headings: str) -> None:
    """Print the first two lines of a table."""
    print_row(*headings)
    print_row(*["---"] * len(headings))


def replace(name: str, text: str) -> None:
    """Put ``text`` between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` in docs/benchmarks.md."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    document, count = re.subn(
        f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", DOCUMENT.read_text(), flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(f"{DOCUMENT}: expected one section between {begin} and {end}, got {count}")
    DOCUMENT.write_text(document)
