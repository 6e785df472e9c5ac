"""``ros2 run sapnet_ros bag_publisher``: publishes a recording, in real time or in lockstep with derain_node."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rclpy.utilities import remove_ros_args

from sapnet.bags import open_recording
from sapnet.commands.common import parse_above_zero, parse_seconds
from sapnet.errors import SapnetError
from sapnet_ros.replay.lockstep import STATUS, open_player
from sapnet_ros.replay.plan import EXIT_FAILED, EXIT_INPUT, READY
from sapnet_ros.replay.player import PlayerError, PlayerStopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ANSWER_TIMEOUT_S = 60.0
CLOCK_HZ = 40.0

_EXAMPLES = """\
SIGUSR1, and the service ~/pause (std_srvs/SetBool), pause and resume.

examples:
  ros2 run sapnet_ros bag_publisher drive/ --rate 2 --loop
  ros2 run sapnet_ros bag_publisher drive.mcap --lockstep --ros-args -r frame_status:=/front/frame_status
"""


def main(argv: list[str] | None = None) -> int:
    """Play: 0 at the end, or when a signal ends a loop; 1 if an answer is missing; 2 on wrong input."""
    args = parse(remove_ros_args(sys.argv if argv is None else ["bag_player", *argv])[1:])

    def say(text: object) -> None:
        print(f"bag_player: {text}", file=sys.stderr)

    try:
        with open_recording(args.bag) as source, open_player(source, args, say, argv, SIGNALS) as player:
            player.run()
    except PlayerStopped:
        return 0 if args.loop else EXIT_FAILED
    except SapnetError as err:
        say(err)
        return EXIT_FAILED if isinstance(err, PlayerError) else EXIT_INPUT
    return 0


def parse(words: Sequence[str], given: argparse.Namespace | None = None) -> argparse.Namespace:
    """The arguments of a playback. given: values that stand in for defaults."""
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
    several(
        "--camera",
        help="image topic to offer as reliable, so that no frame is lost (with --lockstep: all color cameras)",
    )
    several("--ready", help=f"start once this std_msgs/Bool is true (with --lockstep: {READY})")
    several("--status", help=f"with --lockstep: topic of the answers to frames (default: {STATUS})")
    parser.add_argument(
        "--clock-rate", type=parse_above_zero, default=CLOCK_HZ, metavar="HZ", help="minimum rate of /clock"
    )
    parser.add_argument(
        "--answer-timeout", type=parse_seconds, default=ANSWER_TIMEOUT_S, metavar="S", help="wait so long for an answer"
    )
    return parser.parse_args(words, given)


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
    parser.add_argument("--lockstep", action="store_true", help="wait for derain_node's answer to each frame")


if __name__ == "__main__":
    sys.exit(main())
