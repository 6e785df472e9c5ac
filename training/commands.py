"""What the commands of training share: a parser, weights that are compared, wrong input in one line, tables."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec

from sapnet.commands.common import add_network_arguments
from sapnet.errors import SapnetError
from sapnet.media.formats import IMAGE_SUFFIXES

Given = ParamSpec("Given")


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


def parse_picture(text: str) -> Path:
    """A file that a picture can be written to."""
    path = Path(text)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"expected a file that ends in .png, got {text!r}")
    return path


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


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown with aligned columns; the first column is text, the others are figures, aligned to the right."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (headings, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        for first, *others in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
