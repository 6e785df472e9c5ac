"""``sapnet fleet``: many recordings, derained by a pool of workers."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sapnet.commands.bag import add_bag_arguments, options_from
from sapnet.commands.common import (
    NETWORK,
    add_command,
    add_network_arguments,
    counted,
    parse_positive,
    progress_bar,
)
from sapnet.errors import SapnetError

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers
    from sapnet.fleet import FleetReport, Row
    from sapnet.fleet.run import Watch

_DESCRIPTION = """\
Derain the cameras of many recordings, on all of this machine or on a Ray cluster.

IN is a recording, a folder that is searched through all its subfolders, or a quoted pattern such as 'drives/**'. OUT
keeps its layout; each recording becomes a rosbag2 folder there, as sapnet bag writes it, which appears whole or not at
all. Run it again to go on: what is whole is kept, what was broken off goes on from where it was.

A recording that fails, or whose worker dies, is tried again, and given up in the end; the others go on, and the exit
status is 1. OUT/ledger.jsonl gets a line for each recording as it ends, OUT/summary.json the whole.

With --address IN, OUT and weights must be on storage that all nodes see under the same paths.
"""

_EXAMPLES = """\
sapnet fleet 'drives/**' -o derained/
sapnet fleet drives/ -o derained/ --workers 8 --cpus-per-worker 2
sapnet fleet /nfs/drives -o /nfs/out --address auto --gpus-per-worker 0.5
sapnet fleet drives/ -o derained/ --chunk 300 --json > summary.json
"""
# Recordings that are named one by one on the terminal; the ledger names all.
_MAX_NAMED = 20


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet fleet``."""
    parser = add_command(subparsers, "fleet", "derain many recordings over Ray", _EXAMPLES, _DESCRIPTION)
    parser.add_argument("inputs", nargs="+", metavar="IN", help="recording, folder or quoted pattern")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder, made if missing")
    add_bag_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--workers", type=parse_positive, default=0, metavar="N", help="(default: what there is room for)"
    )
    group.add_argument(
        "--cpus-per-worker", type=_parse_share, default=1.0, metavar="C", help="cores of each (default: 1)"
    )
    group.add_argument(
        "--gpus-per-worker",
        type=_parse_share,
        default=0.0,
        metavar="G",
        help="GPUs of each, also a part of one such as 0.5; without a share a worker runs on the CPU (default: 0)",
    )
    group.add_argument("--address", default="", metavar="A", help="of a Ray cluster, or auto (default: this machine)")
    group.add_argument(
        "--chunk", type=_parse_chunk, default=0.0, metavar="S", help="seconds of a recording at a time (default: all)"
    )
    group.add_argument(
        "--retries", type=parse_positive, default=3, metavar="N", help="failures before one is given up (default: 3)"
    )
    add_network_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Derain what the arguments name; 1 where a recording was given up. Raises SapnetError."""
    from sapnet.fleet import FleetOptions, derain_fleet, plan_bags
    from sapnet.fleet.ledger import FAILED
    from sapnet.fleet.run import as_json

    if args.chunk and args.stride > 1:
        raise SapnetError("--stride counts frames from a recording's start, which chunks do not know; drop --chunk")
    options = FleetOptions(
        workers=args.workers,
        cpus=args.cpus_per_worker,
        gpus=args.gpus_per_worker,
        chunk_s=args.chunk,
        tries=args.retries,
        address=args.address,
    )
    bags = plan_bags(args.inputs, args.output)
    with _watching() as watch:
        report = derain_fleet(bags, args.output.absolute(), _network(args), options_from(args), options, watch)
    print(json.dumps(as_json(report), indent=2) if args.json else _summary(report))
    return 1 if report.count(FAILED) else 0


def _network(args: argparse.Namespace) -> dict[str, str | int]:
    """Arguments of Derainer, that hold in another folder too."""
    given = {name: getattr(args, name) for name in NETWORK}
    paths = {name: str(Path(given[name]).absolute()) for name in ("weights", "engine") if Path(given[name]).is_file()}
    return {**given, **paths, "max_batch": args.batch}


def _summary(report: FleetReport) -> str:
    from sapnet.fleet.ledger import DONE, FAILED, KEPT

    failed = [row for row in report.rows if row.state == FAILED]
    again = [row for row in report.rows if row.state == DONE and row.attempts > 1]
    lines = [f"failed: {row.input} ({row.attempts} attempts): {row.error}" for row in failed[:_MAX_NAMED]]
    lines += _more(failed)
    lines += [f"done at attempt {row.attempts}: {row.input}: {row.error}" for row in again[:_MAX_NAMED]]
    lines += _more(again)
    noted = sum(bool(row.notes) for row in report.rows)
    lines += [f"{noted} of them damaged or with unreadable images: see the ledger"] if noted else []
    speed = report.frames / report.seconds if report.seconds else 0.0
    lines.append(
        f"{counted(len(report.rows), 'recording')}: {report.count(DONE)} done, {report.count(KEPT)} kept, "
        f"{len(failed)} failed; {report.frames} frames in {report.seconds:.1f} s "
        f"({speed:.1f} frames/s, workers: {report.workers}{_shares(report.rows)}): {report.output}"
    )
    return "\n".join(lines)


def _more(rows: list[Row]) -> list[str]:
    return [f"... and {len(rows) - _MAX_NAMED} more"] if len(rows) > _MAX_NAMED else []


def _shares(rows: list[Row]) -> str:
    """How many nodes had a part in it, where that is more than one."""
    nodes = Counter(row.node for row in rows if row.node)
    return f" on {len(nodes)} nodes" if len(nodes) > 1 else ""


@contextmanager
def _watching() -> Iterator[Watch | None]:
    """What shows a bar, where there is a terminal for it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    from sapnet.fleet import Standing

    with progress_bar(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    ) as bar:
        task = bar.add_task("starting workers", total=None)

        def show(standing: Standing) -> None:
            failed = f", {standing.failed} failed" if standing.failed else ""
            words = f"{standing.bags} recordings{failed}, {standing.workers} workers"
            bar.update(task, completed=standing.done, total=standing.total, description=words)

        yield show


def _parse_share(text: str) -> float:
    """A number of cores or GPUs; Ray takes hundredths of one, and above one whole numbers alone."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < math.inf or (share > 1 and share != int(share)):
        raise argparse.ArgumentTypeError(f"expected a part of 1 such as 0.5, or a whole number, got {text!r}")
    return share


def _parse_chunk(text: str) -> float:
    """Seconds, to the millisecond, so that one chunk begins exactly where another ends."""
    try:
        seconds = round(float(text), 3)
    except (ValueError, OverflowError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds
