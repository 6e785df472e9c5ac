"""The ``sapnet`` command: finds the command that was asked for, runs it, and turns its end into an exit status."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from types import FrameType
from typing import Any, NoReturn

import sapnet
from sapnet.commands.common import VERBOSE_HELP
from sapnet.errors import SapnetError

COMMANDS = ("derain", "bag", "compare", "fleet", "compile", "bench", "info")
ENTRY_POINT_GROUP = "sapnet.commands"
ROS_INSTALL = "source ROS 2's setup file, or run pip install '.[ros]' in the repository"

EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 141  # what a shell shows for SIGPIPE

_EPILOG = """\
examples:
  sapnet derain rainy.png -o derained.png
  sapnet info
  sapnet derain --help
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _StderrHandler(logging.Handler):
    """Writes to what is ``sys.stderr`` at the time, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"sapnet: {record.levelname.lower()}: {self.format(record)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own if None) and return the exit status.

    0: success. 2: wrong usage or input, said in one line on stderr. 130: interrupted. Any other exception is
    a fault of the program and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        with ExitStack() as stack:
            _let_signals_unwind(stack)
            status = _dispatch(list(sys.argv[1:] if argv is None else argv), stack)
        print(end="", flush=True)
    except SapnetError as err:
        print(f"sapnet: error: {' '.join(str(err).split())}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("sapnet: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return status


def _dispatch(argv: list[str], stack: ExitStack) -> int:
    parser: argparse.ArgumentParser = _Parser(
        prog="sapnet",
        description="Takes rain out of camera images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sapnet {sapnet.__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help=VERBOSE_HELP)
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    entries = _entries()
    # The one that is named is loaded alone: the others' imports would only take time.
    named = next((word for word in argv if not word.startswith("-")), "")
    for name in [named] if named in entries else entries:
        try:
            command = entries[name].load()
        except ImportError as err:
            if name in COMMANDS:
                raise
            reason = f"unavailable: {err}; {ROS_INSTALL}"
            if name == named:
                raise SapnetError(f"{name} is {reason}") from err
            subparsers.add_parser(name, help=reason)
        else:
            command.add_parser(subparsers).set_defaults(run=command.run)
    if not argv:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # how argparse ends --help and wrong usage
        return int(stop.code or 0)
    _log_to_stderr(stack, logging.INFO if args.verbose else logging.WARNING)
    status: int = args.run(args)
    return status


def _entries() -> dict[str, metadata.EntryPoint]:
    """The commands by name: this package's own, then those of others. ``sapnet.commands`` says what one must have."""
    own = [metadata.EntryPoint(name, f"sapnet.commands.{name}", ENTRY_POINT_GROUP) for name in COMMANDS]
    others = sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    return {entry.name: entry for entry in (*own, *others) if entry in own or entry.name not in COMMANDS}


def _log_to_stderr(stack: ExitStack, level: int) -> None:
    """Send the package's log to stderr from ``level`` up, until ``stack`` is closed."""
    logger, handler = logging.getLogger("sapnet"), _StderrHandler()
    stack.callback(logger.removeHandler, handler)
    stack.callback(logger.setLevel, logger.level)
    logger.addHandler(handler)
    logger.setLevel(level)


def _let_signals_unwind(stack: ExitStack) -> None:
    """Let SIGTERM and SIGHUP end the program as an exception does, which removes temporary files and children."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
            stack.callback(signal.signal, number, signal.signal(number, stop))
