"""``ros2 run sapnet_ros bag_publisher``: publishes a recording, in real time or in lockstep with derain_node."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from sapnet.bags import Message, Recording, Topic, open_recording
from sapnet.bags.cameras import Camera, find_cameras
from sapnet.commands.common import parse_above_zero, parse_seconds
from sapnet.errors import BagError, SapnetError
from sapnet_ros.replay.lockstep import SETTLE_S, STATUS, Answers, Lockstep
from sapnet_ros.replay.plan import EXIT_FAILED, EXIT_INPUT, READY
from sapnet_ros.replay.publisher_node import (
    CLOCK,
    BagPlayer,
    PlayerError,
    PlayerStopped,
    is_latched,
    offered_profile,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ANSWER_TIMEOUT_S = 60.0
CLOCK_HZ, CLOCK_DEPTH = 40.0, 10
# With a queue of one, Fast DDS asks after each message whether it has come; else only every three seconds.
LOCKSTEP_DEPTH = 1

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
        with open_recording(args.bag) as source, open_playback(source, args, say, argv, SIGNALS) as playback:
            playback.run()
    except PlayerStopped:
        return 0 if args.loop else EXIT_FAILED
    except SapnetError as err:
        say(err)
        return EXIT_FAILED if isinstance(err, PlayerError) else EXIT_INPUT
    return 0


@dataclass(frozen=True)
class Playback:
    """A recording, and what plays it to whom. args: of ``parse``. warn: receives what is unusual, a sentence each."""

    source: Recording
    args: argparse.Namespace
    warn: Callable[[str], None]
    player: BagPlayer
    cameras: Sequence[Camera]
    answers: Answers

    def run(self, on_frame: Callable[[Message], None] = lambda frame: None) -> None:
        """Play the chosen span, repeatedly with ``--loop``. on_frame: receives each frame before it is sent.

        Raises PlayerError, PlayerStopped, and what ``on_frame`` raises.
        """
        source, args, player, answers = self.source, self.args, self.player, self.answers
        start_ns, stop_ns = span(source, args.start, args.duration)
        notes = list(source.notes)
        for note in notes:
            self.warn(note)
        player.begin(start_ns)
        send = player.send
        if args.lockstep:
            lockstep = Lockstep(player, answers, self.cameras, args.answer_timeout)
            lockstep.begin(source, start_ns, sizes_known=bool(args.ready))
            send = lockstep.send
        else:
            answers.wait_ready()
            answers.wait_connected()
        frames = {camera.topic for camera in self.cameras}.intersection(player.topics)
        while True:
            player.begin(start_ns)
            latched = [topic for topic in player.topics if is_latched(topic)]
            for message in source.messages(latched, stop_ns=start_ns):
                player.publish(message)
            for message in source.messages(player.topics, start_ns, stop_ns):
                player.wait_until(message.time_ns)
                if message.topic in frames:
                    on_frame(message)
                send(message)
            if not args.loop:
                break
        # Messages in transit are lost when their publisher ends. In lockstep, the frames have been answered.
        for topic in () if args.lockstep else frames:
            player.wait_taken(topic, args.answer_timeout)
        player.spin_until(lambda: False, SETTLE_S)
        for note in source.notes[len(notes) :]:
            self.warn(note)


@contextmanager
def open_playback(
    source: Recording,
    args: argparse.Namespace,
    warn: Callable[[str], None],
    ros_args: list[str] | None,
    signals: Iterable[signal.Signals],
) -> Iterator[Playback]:
    """What plays a recording, in the main thread. ros_args: of rclpy. signals: that it obeys. Raises BagError."""
    topics = chosen_topics(source, args.topic, args.exclude)
    cameras = find_cameras(source, args.camera) if args.lockstep or args.camera else []
    if args.lockstep and not cameras:
        raise BagError(f"{source.path} has no colour camera to go in lockstep with; name one with --camera")
    # Reliable, so that no frame is lost, whatever was recorded.
    reliable = [topic for camera in cameras for topic in (camera.topic, camera.info) if topic is not None]
    depth = LOCKSTEP_DEPTH if args.lockstep else None
    with ExitStack() as stack:
        context = rclpy.Context()
        rclpy.init(args=ros_args, context=context, signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown, context=context)
        profiles = {topic: offered_profile(topic, reliable=True, depth=depth) for topic in reliable}
        clock = args.clock_rate, depth or CLOCK_DEPTH
        player = BagPlayer(topics, profiles, warn, args.rate, args.max_gap, *clock, context)
        stack.callback(player.destroy_node)
        for camera in cameras:
            if camera.topic in player.skipped:
                raise BagError(f"{camera.topic.name} cannot be published: {player.skipped[camera.topic]}")
        if player.skipped:
            reasons = "; ".join(f"{topic.name} ({topic.type}): {why}" for topic, why in player.skipped.items())
            warn(f"not played: {reasons}")
        for number in signals:
            before = signal.signal(number, lambda number, _: player.signals.append(number))
            stack.callback(signal.signal, number, before)
        ready = args.ready or ([READY] if args.lockstep else [])
        answers = Answers(player, ready, (args.status or [STATUS]) if args.lockstep else [])
        yield Playback(source, args, warn, player, cameras, answers)


def chosen_topics(source: Recording, only: Sequence[str], excluded: Sequence[str]) -> list[Topic]:
    """The topics to play; the player publishes /clock itself. Raises BagError if one of ``only`` is missing."""
    if missing := set(only) - {topic.name for topic in source.topics}:
        raise BagError(f"{source.path} has no topic {', '.join(sorted(missing))}")
    left_out = {CLOCK, *excluded}
    return [topic for topic in source.topics if (not only or topic.name in only) and topic.name not in left_out]


def span(source: Recording, start_s: float, duration_s: float) -> tuple[int, int]:
    """First log time to play, and the one to stop before. Raises BagError if that is empty."""
    start_ns = source.start_ns + round(start_s * 1e9)
    stop_ns = min(source.end_ns, start_ns + round(duration_s * 1e9)) if duration_s else source.end_ns
    if start_ns >= stop_ns:
        length_s = (source.end_ns - source.start_ns) / 1e9
        raise BagError(f"{source.path} is {length_s:.3f} s long; there is nothing to play from {start_s:g} s on")
    return start_ns, stop_ns


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a playback."""
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
    return parser.parse_args(words)


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
