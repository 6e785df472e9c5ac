"""``ros2 run sapnet_ros bag_publisher``: publishes a recording to whatever runs, as ``ros2 bag play`` does."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from sapnet.bags import open_recording
from sapnet.commands.common import parse_above_zero, parse_seconds
from sapnet.errors import SapnetError
from sapnet_ros.replay.player import CLOCK_HZ, SETTLE_S, BagPlayer, RunError, chosen_topics, span, spinning

_EXAMPLES = """\
SIGUSR1, and the service ~/pause (std_srvs/SetBool), pause and resume.

examples:
  ros2 run sapnet_ros bag_publisher drive/ --rate 2 --loop
  ros2 run sapnet_ros bag_publisher drive.mcap --ready derain_node/ready
"""


def main(argv: list[str] | None = None) -> int:
    """Play: 0 at the end, or when a signal ends a loop; 1 if one ends it before; 2 on wrong input."""
    args = _parser().parse_args(remove_ros_args(sys.argv if argv is None else ["bag_player", *argv])[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        _play(args)
    except KeyboardInterrupt:
        return 0 if args.loop else 1
    except SapnetError as err:
        _say(str(err))
        return 1 if isinstance(err, RunError) else 2
    finally:
        rclpy.try_shutdown()
    return 0


def _play(args: argparse.Namespace) -> None:
    with open_recording(args.bag) as source:
        notes = list(source.notes)
        for note in notes:
            _say(note)
        topics = chosen_topics(source, args.topic, args.exclude)
        between = span(source, args.start, args.duration)
        player = BagPlayer(topics, between[0], args.rate, clock_hz=args.clock_rate, max_gap_s=args.max_gap, warn=_say)

        def toggle(*_: object) -> None:
            player.paused = not player.paused

        signal.signal(signal.SIGUSR1, toggle)
        player.listen(args.ready)
        with spinning(player):
            player.wait_ready()
            while True:
                player.play(source, between, player.send)
                if not args.loop:
                    break
            # Messages in transit are lost when their publisher ends.
            player.wait(lambda: False, SETTLE_S)
        for note in source.notes[len(notes) :]:
            _say(note)


def _say(text: str) -> None:
    print(f"bag_player: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "bag_player",
        description="Publish the messages of a recording, with /clock.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_play_arguments(parser)
    several = partial(parser.add_argument, action="append", default=[], metavar="TOPIC")
    several("--topic", help="play only this topic; may be repeated")
    several("--exclude", help="do not play this topic; may be repeated")
    several("--ready", help="start once this std_msgs/Bool is true")
    parser.add_argument(
        "--clock-rate", type=parse_above_zero, default=CLOCK_HZ, metavar="HZ", help="minimum rate of /clock"
    )
    return parser


def add_play_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that ``sapnet replay`` shares."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file, or ROS 1 .bag")
    parser.add_argument("--rate", type=parse_above_zero, default=1.0, metavar="R", help="playback speed (default: 1)")
    parser.add_argument("--loop", action="store_true", help="start over at the end, until Ctrl-C")
    parser.add_argument("--start", type=parse_seconds, default=0.0, metavar="S", help="seconds to skip at the start")
    parser.add_argument("--duration", type=parse_seconds, default=0.0, metavar="S", help="seconds to play (0: all)")
    parser.add_argument(
        "--max-gap",
        type=parse_seconds,
        default=0.0,
        metavar="S",
        help="shorten longer gaps between messages to this (0: keep them)",
    )


if __name__ == "__main__":
    sys.exit(main())
