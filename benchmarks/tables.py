"""Tables in markdown: printed row by row, or put into documents, between the comments that name them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are aligned to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_row(*cells: str) -> None:
    """Print a row as soon as it is measured."""
    print(f"| {' | '.join(cells)} |", flush=True)


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
