"""What the commands of training share: a parser, weights that are compared, wrong input in one line, tables."""

from __future__ import annotations

import argparse
import functools
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec

from rich import box
from rich.console import Console
from rich.table import Table

from sapnet.commands.common import add_network_arguments
from sapnet.errors import SapnetError

Given = ParamSpec("Given")
# Nothing is wrapped.
_WIDE = 10_000


def make_parser(name: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Of ``python -m training.NAME``; the lines of both texts stay as they are."""
    return argparse.ArgumentParser(
        prog=f"python -m training.{name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_networks(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    """Add the arguments of a network, as of sapnet's commands, but with several ``--weights``."""
    add_network_arguments(parser, weights=False)
    parser.add_argument(
        "--weights",
        nargs="+",
        default=default,
        metavar="NAME|PATH",
        help="shipped weights or files (default: sapnet_fast)",
    )


def one_line_errors(name: str) -> Callable[[Callable[Given, int]], Callable[Given, int]]:
    """Wrong input, and what cannot be read or written, end the command with one message on stderr and status 2."""

    def decorate(main: Callable[Given, int]) -> Callable[Given, int]:
        @functools.wraps(main)
        def command(*args: Given.args, **kwargs: Given.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except (SapnetError, ValueError, OSError) as err:
                print(f"{name}: {err}", file=sys.stderr)
                return 2

        return command

    return decorate


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], style: box.Box | None = None, width: int = _WIDE
) -> str:
    """Aligned text, by default plain; the first column is text, the others are figures, aligned to the right."""
    is_markdown = style is box.MARKDOWN
    shown = Table(box=style, padding=0 if style is box.SIMPLE_HEAD else (0, 1))
    shown.add_column(headings[0], overflow="fold", min_width=12)
    for heading in headings[1:]:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*(cell.replace("|", r"\|") if is_markdown else cell for cell in row))
    text = io.StringIO()
    Console(file=text, width=width, markup=False).print(shown)
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    if is_markdown:
        # rich has no mark for what is aligned to the right.
        first, *others = lines[1].split("-|")
        lines[1] = "-|".join([first, ":|".join(others)])
    return "\n".join(lines)
