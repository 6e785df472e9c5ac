"""``sapnet fleet``: derain many recordings over Ray."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sapnet.commands.bag import add_bag_arguments, options_from
from sapnet.commands.common import (
    EXIT_PARTIAL,
    NETWORK,
    Subparsers,
    add_command,
    add_network_arguments,
    counted,
    number,
    parse_positive,
    progress_bar,
)

if TYPE_CHECKING:
    from sapnet.fleet import FleetReport

EXIT_FAILED = 1

_DESCRIPTION = """\
Derain the cameras of many recordings, with all cores of this machine or on a Ray cluster.

IN is a recording, a folder, which is searched recursively, or a quoted pattern such as 'drives/**'. OUT repeats its
folders; each recording becomes a rosbag2 folder there, as with sapnet bag, which appears only once it is whole. To
resume, run the same command again: whole recordings are kept, interrupted ones continue where they stopped.

A recording that fails, or whose worker dies, is retried. OUT/ledger.jsonl gets a line for each recording when it
ends, OUT/summary.json the result of the run. With --address, IN, OUT and weights must be on storage that all nodes
see under the same paths.

Exit status: 0 if every recording was derained or kept, 1 if some failed, 3 if some could be read only in part, 2 on
wrong usage or if nothing can be done.
"""

_EXAMPLES = """\
sapnet fleet 'drives/**' -o derained/
sapnet fleet drives/ -o derained/ --workers 8 --cpus-per-worker 2
sapnet fleet /nfs/drives -o /nfs/out --address auto --gpus-per-worker 0.5
sapnet fleet drives/ -o derained/ --json > summary.json
"""
# Failed and partial recordings that are named on the terminal; the ledger names all.
_MAX_NAMED = 20


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet fleet``."""
    parser = add_command(subparsers, "fleet", "derain many recordings over Ray", _EXAMPLES, _DESCRIPTION)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IN", help="recording, folder or quoted pattern")
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="output folder, created if missing")
    add_bag_arguments(parser)
    add("--json", action="store_true", help="print the summary as JSON")
    add = parser.add_argument_group("workers").add_argument
    # As Ray takes them.
    share = number(float, "a fraction such as 0.5, or a whole number", lambda n: n >= 0 and (n < 1 or n.is_integer()))
    workers = "recordings at a time (default: as many as fit)"
    add("--workers", type=parse_positive, default=0, metavar="N", help=workers)
    add("--cpus-per-worker", type=share, default=1.0, metavar="C", help="cores (default: 1)")
    gpus = "GPUs, or a fraction such as 0.5 to share one; with 0 workers run on the CPU (default: 0)"
    add("--gpus-per-worker", type=share, default=0.0, metavar="G", help=gpus)
    address = "HOST:PORT of a Ray cluster, or auto (default: this machine only)"
    add("--address", default="", metavar="A", help=address)
    add("--retries", type=parse_positive, default=3, metavar="N", help="attempts at each recording (default: 3)")
    add_network_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Derain what the arguments name and return the exit status. Raises SapnetError."""
    from sapnet.fleet import FleetOptions, derain_fleet, plan_bags
    from sapnet.fleet.ledger import FAILED, PARTIAL

    fleet = FleetOptions(args.workers, args.cpus_per_worker, args.gpus_per_worker, args.retries, args.address)
    bags = plan_bags(args.inputs, args.output)
    with progress_bar() as bar:
        report = derain_fleet(bags, args.output.absolute(), _network(args), options_from(args), fleet, bar)
    print(json.dumps(report.as_json(), indent=2) if args.json else _summary(report))
    return EXIT_FAILED if report.count(FAILED) else EXIT_PARTIAL if report.count(PARTIAL) else 0


def _network(args: argparse.Namespace) -> dict[str, str | int]:
    """Arguments of Derainer, with paths that hold in another working directory too."""
    given = {name: getattr(args, name) for name in NETWORK}
    paths = {name: str(Path(given[name]).absolute()) for name in ("weights", "engine") if Path(given[name]).is_file()}
    return {**given, **paths, "max_batch": args.batch}


def _summary(report: FleetReport) -> str:
    from sapnet.fleet.ledger import DONE, FAILED, KEPT, PARTIAL

    # Failed ones first: the names of the states sort that way.
    rows = sorted((row for row in report.rows if row.state in (FAILED, PARTIAL)), key=lambda row: row.state)
    lines = [f"{row.state}: {row.input}: {row.error or '; '.join(row.notes)}" for row in rows]
    if more := len(lines[_MAX_NAMED:]):
        lines[_MAX_NAMED:] = [f"... and {more} more, see ledger.jsonl"]
    counts = ", ".join(f"{report.count(state)} {state}" for state in (DONE, PARTIAL, KEPT, FAILED))
    nodes = len({row.node for row in report.rows if row.node})
    where = f"{report.fps:.1f} frames/s, {counted(nodes, 'node')}"
    lines += [
        f"{counted(len(report.rows), 'recording')}: {counts}",
        f"{counted(report.frames, 'frame')} in {report.seconds:.1f} s ({where}): {report.output}",
    ]
    return "\n".join(lines)
