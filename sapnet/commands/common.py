"""Arguments and output that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sapnet.backends import BACKENDS
from sapnet.backends.base import PRECISIONS
from sapnet.config import MAX_STAGES
from sapnet.images.frame import MIN_SIDE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from sapnet.backends.base import BuildStatus
    from sapnet.derainer import Derainer

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

Number = TypeVar("Number", int, float)
# The options of add_network_arguments, which are arguments of Derainer and parameters of derain_node too.
NETWORK = ("weights", "backend", "engine", "device", "precision", "stages")
VERBOSE_HELP = "say more on stderr"
_TELL_EVERY_S = 5.0  # between two lines on the progress of a build
_UNLIMITED = 10_000  # columns, for a pipe
# An input could be read only in part, and the output has that part.
EXIT_PARTIAL = 3


def add_command(
    subparsers: Subparsers, name: str, summary: str, examples: str, description: str = ""
) -> argparse.ArgumentParser:
    """Register a command.

    summary: one line for the list of commands. examples: the lines that end ``--help``, shown as written.
    description: the paragraphs that ``--help`` says before the arguments; the summary where empty.
    """
    indented = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description.strip() or summary,
        epilog=f"examples:\n{indented}",
        formatter_class=_HelpFormatter,
    )
    # Suppressed, as a default here would undo a -v that came before the command's name.
    parser.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=VERBOSE_HELP)
    return parser


def add_network_arguments(parser: argparse.ArgumentParser, backend: bool = True, weights: bool = True) -> None:
    """Add ``--device``, ``--precision``, ``--stages`` and, where there is one choice, ``--weights``, and ``--backend``
    with ``--engine``.
    """
    group = parser.add_argument_group("network")
    add, default = group.add_argument, "(default: %(default)s)"
    if weights:
        add("--weights", default="sapnet_fast", metavar="NAME|PATH", help=f"shipped weights or a file {default}")
    if backend:
        add("--backend", default="auto", choices=BACKENDS, help=f"what runs the network {default}")
        add("--engine", default="", metavar="FILE", help="TensorRT engine compiled ahead of time")
    add("--device", default="auto", metavar="DEVICE", help=f"cpu, cuda, cuda:N {default}")
    add("--precision", default="auto", choices=PRECISIONS, help=f"arithmetic of the network {default}")
    stages = f"recurrences, 1 to {MAX_STAGES}; fewer is faster; 0 is the preset's own {default}"
    add("--stages", default=0, type=whole_number(0, MAX_STAGES), metavar="N", help=stages)


def derainer_from(args: argparse.Namespace, **more: Any) -> Derainer:
    """Create the Derainer from the arguments of ``add_network_arguments``; more: of Derainer. Raises SapnetError."""
    from sapnet.derainer import Derainer

    return Derainer(**{"on_build": tell_builds(), **{name: getattr(args, name) for name in NETWORK}, **more})


def tell_builds() -> Callable[[BuildStatus], None]:
    """Return a callback that prints the progress of an engine's build on stderr, a line every few seconds."""
    told_s = math.inf

    def tell(status: BuildStatus) -> None:
        nonlocal told_s
        if not 0 <= status.seconds - told_s < _TELL_EVERY_S:
            told_s = status.seconds
            print(f"sapnet: {status}", file=sys.stderr)

    return tell


def parse_shape(text: str) -> tuple[int, int]:
    """``HxW``, height first as everywhere in this project: ``720x1280`` -> (720, 1280)."""
    height, separator, width = text.lower().partition("x")
    if not separator or not height.isdecimal() or not width.isdecimal():
        raise argparse.ArgumentTypeError(f"expected height x width such as 720x1280, got {text!r}")
    if min(int(height), int(width)) < MIN_SIDE:
        raise argparse.ArgumentTypeError(f"height and width must be at least {MIN_SIDE}, got {text!r}")
    return int(height), int(width)


def number(kind: Callable[[str], Number], expected: str, is_right: Callable[[Number], bool]) -> Callable[[str], Number]:
    """The type of an argument: a number for which ``is_right`` holds. expected: what the error says otherwise."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            if is_right(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return parse


def whole_number(lowest: int, highest: float = math.inf) -> Callable[[str], int]:
    """The type of an argument: a whole number from ``lowest`` to ``highest``."""
    bounds = f"of at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
    return number(int, f"a whole number {bounds}", lambda value: lowest <= value <= highest)


parse_positive = whole_number(1)
parse_above_zero = number(float, "a number above 0", lambda value: 0 < value < math.inf)
parse_seconds = number(float, "seconds of at least 0", lambda value: 0 <= value < math.inf)


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs to the terminal, but for those with indented lines, which are examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(part if "\n  " in part else textwrap.fill(part, width) for part in paragraphs)


def progress_bar(*, counts: bool = False) -> Progress:
    """A progress bar on stderr if that is a terminal, removed at the end. counts: show them, not a percentage."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    description, bar, share, remaining = Progress.get_default_columns()
    columns = description, bar, MofNCompleteColumn() if counts else share, remaining
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def stdout_console() -> Console:
    """Prints text as it is, and to a pipe without wrapping it, so that a search finds whole lines."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNLIMITED
    return Console(width=width, markup=False, emoji=False, highlight=False)


def clean(text: str, longest: int = 500) -> str:
    """Untrusted text as one line of at most ``longest`` characters, without control characters."""
    words = " ".join(text[: 4 * longest].split())
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
