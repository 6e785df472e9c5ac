"""``sapnet compare``: compare two recordings topic by topic."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sapnet.commands.common import Subparsers, add_command, clean, counted, progress_bar, stdout_console, whole_number

if TYPE_CHECKING:
    from sapnet.bags.compare import Comparison, TopicComparison

EXIT_DIFFERENT = 1

_DESCRIPTION = """\
Compare two recordings, A and B, topic by topic and message by message.

Each is a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag. Storage, compression and the order of topics make no
difference. Messages with a header are matched by its timestamp, all others by order: if one of these is missing, those
that follow differ too.

Images, raw or compressed, are compared by their pixels, decoded to 8 bits; other messages by their fields, or byte by
byte if their type is unknown. A topic that is missing on one side is a difference. Between two mcap recordings, the
schema, encoding and metadata of channels are compared too, and unless topics are chosen, attachments and metadata
records. Log times, QoS profiles and the order between topics are not compared.

Exit status: 0 if no difference exceeds the tolerance, 1 if one does, 2 on wrong usage or an unreadable input.
"""

_EXAMPLES = """\
sapnet compare reference/ replayed/
sapnet compare drive.bag derained/ --topic /imu --topic '/lidar/*'
sapnet compare cpu/ gpu/ --topic '*/derained/image' --tolerance 2
sapnet compare reference/ replayed/ --times --json > differences.json
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet compare``."""
    parser = add_command(subparsers, "compare", "compare two recordings topic by topic", _EXAMPLES, _DESCRIPTION)
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="recording: a folder, .mcap, .db3 or .bag")
    add("b", type=Path, metavar="B", help="recording to compare with it")
    most = "largest difference of a pixel value, 0 to 255, that images may have (default: %(default)s)"
    add("--tolerance", type=whole_number(0, 255), default=0, metavar="N", help=most)
    some: dict[str, Any] = {"action": "append", "default": [], "metavar": "T"}
    compared = "compare only this topic, a name or a pattern such as '/front/*'; may be repeated"
    add("--topic", **some, help=compared)
    add("--ignore", **some, help="leave this topic out, even if --topic matches it; may be repeated")
    add("--times", action="store_true", help="compare log times too")
    add("--json", action="store_true", help="print the differences as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Compare what the arguments name; return 1 if the recordings differ. Raises SapnetError."""
    from sapnet.bags.compare import compare_bags

    with progress_bar(counts=True) as progress:
        task = progress.add_task("messages", total=None)
        comparison = compare_bags(
            args.a,
            args.b,
            tolerance=args.tolerance,
            topics=args.topic,
            ignore=args.ignore,
            times=args.times,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if args.json:
        print(json.dumps(_as_json(comparison), indent=2))
    else:
        _print(comparison)
    return 0 if comparison.is_equal else EXIT_DIFFERENT


def _as_json(comparison: Comparison) -> dict[str, object]:
    facts = asdict(comparison)
    for topic, figures in zip(comparison.topics, facts["topics"], strict=True):
        figures["is_equal"] = topic.is_equal
    return {"is_equal": comparison.is_equal, **facts}


def _print(comparison: Comparison) -> None:
    """Print the table of topics, how topics and records differ, notes on the recordings, and the verdict."""
    console = stdout_console()
    differing = [topic for topic in comparison.topics if not topic.is_equal]
    console.print(_table(comparison.topics))
    for topic in differing:
        console.print(f"{clean(topic.topic)}: {_why(topic)}")
    for record, difference in comparison.records.items():
        console.print(f"{clean(record)}: {difference}", style="red")
    for name, notes in (("A", comparison.notes_a), ("B", comparison.notes_b)):
        for note in notes:
            console.print(f"note on {name}: {clean(note)}", style="yellow")
    tolerance = f" (tolerance {comparison.tolerance})" if comparison.tolerance else ""
    topics = counted(len(comparison.topics), "topic")
    if comparison.is_equal:
        messages = counted(sum(topic.equal for topic in comparison.topics), "message")
        console.print(f"equal{tolerance}: {topics}, {messages}", style="bold green")
    else:
        records = f", {counted(len(comparison.records), 'record')}" if comparison.records else ""
        console.print(f"different{tolerance}: {len(differing)} of {topics}{records}", style="bold red")


def _table(topics: list[TopicComparison]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("topic", overflow="fold")
    table.add_column("type", overflow="fold")
    rows = [_figures(topic) for topic in topics]
    # Leave out figures that no topic has, as the table is wide.
    titles = [title for title in dict.fromkeys(chain(*rows)) if any(row[title] not in ("", "0") for row in rows)]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for topic, row in zip(topics, rows, strict=True):
        types = dict.fromkeys(name.rpartition("/")[2] for name in (topic.type_a, topic.type_b) if name)
        cells = [clean(topic.topic), clean(" / ".join(types)), *(row[title] for title in titles)]
        table.add_row(*cells, style="" if topic.is_equal else "red")
    return table


def _figures(topic: TopicComparison) -> dict[str, str]:
    """Cells of the table, by their columns."""
    psnr = topic.lowest_psnr
    return {
        "A": str(topic.count_a),
        "B": str(topic.count_b),
        "equal": str(topic.equal),
        "differ": str(topic.different),
        "only A": str(topic.only_a),
        "only B": str(topic.only_b),
        "max": str(topic.largest_difference or ""),
        "pixels": f"{100 * topic.differing_pixels:.2f} %" if topic.differing_pixels else "",
        "PSNR": "" if psnr is None else f"{psnr:.1f} dB",
    }


def _why(topic: TopicComparison) -> str:
    if not (topic.type_a and topic.type_b):
        return f"missing in {'B' if topic.type_a else 'A'}"
    reasons = [f"channels differ in {', '.join(topic.channel)}"] if topic.channel else []
    reasons += [f"{count} differ in {reason}" for reason, count in topic.reasons.items()]
    if "types" in topic.reasons:
        reasons.append(f"{clean(topic.type_a)} in A, {clean(topic.type_b)} in B")
    reasons += [f"{count} only in {side}" for side, count in (("A", topic.only_a), ("B", topic.only_b)) if count]
    first = "" if topic.first_s is None else f"; the first at {topic.first_s:.3f} s"
    return ", ".join(reasons) + first
