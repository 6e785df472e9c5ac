"""What the commands of training share: a parser, weights that are compared, wrong input in one line, tables."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sapnet.commands.common import add_network_arguments
from sapnet.errors import SapnetError
from sapnet.media.formats import is_image


def make_parser(name: str, description: str | None, epilog: str = "") -> argparse.ArgumentParser:
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
    weights = "shipped weights or files (default: sapnet_fast)"
    parser.add_argument("--weights", nargs="+", default=default, metavar="NAME|PATH", help=weights)


def parse_picture(text: str) -> Path:
    """A file that a picture can be written to."""
    path = Path(text)
    if not is_image(path):
        raise argparse.ArgumentTypeError(f"expected a file that ends in .png, got {text!r}")
    return path


def command_line(name: str, argv: Sequence[str]) -> str:
    """``python -m training.NAME`` with its arguments, for the provenance of weights."""
    return shlex.join(["python", "-m", f"training.{name}", *argv])


def one_line_errors(name: str) -> Callable[[Callable[[Sequence[str]], int]], Callable[..., int]]:
    """Make a command of a function of its arguments, by default those of the process.

    Wrong input, and what cannot be read or written, end it with one message on stderr and status 2.
    """

    def decorate(main: Callable[[Sequence[str]], int]) -> Callable[..., int]:
        def command(argv: Sequence[str] | None = None) -> int:
            try:
                return main(sys.argv[1:] if argv is None else argv)
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
