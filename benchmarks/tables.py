"""Tables in Markdown: printed row by row, and put into docs/benchmarks.md between the comments that name them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]  # runs from a checkout that is not installed, too
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Print a table, each row as soon as it is measured; returns the whole of it."""
    lines = []
    for line in chain((headings, ["---", *["---:"] * (len(headings) - 1)]), rows):
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def replace(name: str, text: str) -> None:
    """Put ``text`` between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` in docs/benchmarks.md."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    document, count = re.subn(
        f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", DOCUMENT.read_text(), flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(f"{DOCUMENT}: expected one section between {begin} and {end}, got {count}")
    DOCUMENT.write_text(document)
