"""Plays a recording in lockstep with derain_node, so that nothing depends on timing; and opens either player."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions

from sapnet.bags import Message, Recording
from sapnet.bags.cameras import find_cameras
from sapnet.bags.types import deserialize, header_stamp
from sapnet.errors import BagError
from sapnet.images.topics import FRAME_STATUS
from sapnet_ros.fate import BUILDING
from sapnet_ros.replay.player import REPORTS_DEPTH, Player, PlayerError

STATUS = FRAME_STATUS.name
# For the node to start, with all that it imports.
CONNECT_TIMEOUT_S = 180.0
# A node that does not know a size yet withdraws its readiness within this time.
READINESS_CHANGES_S = 1.0


class Lockstep(Player):
    """Goes on from each frame's time once that is answered.

    A frame is answered by its status, or by diagnostics that count one more dropped frame. It is sent once the node has
    acknowledged all earlier camera_info, and all reliable subscribers of /clock, such as the recorder, its time.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reasons: dict[int, str] = {}  # why a frame was not derained, by its stamp; empty if it was
        self._status = [
            self.create_subscription(DiagnosticArray, topic, self._on_status, REPORTS_DEPTH, raw=True)
            for topic in self.args.status or [STATUS]
        ]

    def _wait_ready(self) -> None:
        """Wait until derain_node is connected and ready.

        Each camera's first camera_info from the start on, or else its first one, is sent ahead, so that the node learns
        the frame size. Without any, and unless ``--ready`` names what knows it, the node learns it from the first
        frame, which then passes through.
        """
        if not self.spin_until(lambda: not self._missing(), CONNECT_TIMEOUT_S):
            raise PlayerError(
                f"there is no {', no '.join(self._missing())} within {CONNECT_TIMEOUT_S:g} s; "
                "is derain_node running, and its image remapped to the camera?"
            )
        messages = self._source.messages
        firsts = [next(chain(messages([topic], self._span[0]), messages([topic])), None) for topic in self._infos]
        for info in firsts:
            if info is not None:
                publisher = self.publishers_of[info.topic]
                publisher.publish(info.data)
                self._wait_acknowledged(publisher)
        if any(firsts) or self.args.ready:
            super()._wait_ready()

    def _missing(self) -> list[str]:
        """What is not connected yet."""
        listened = [self.publishers_of[topic] for topic in self._frames | self._infos]
        missing = [f"subscriber of {one.topic_name}" for one in listened if not one.get_subscription_count()]
        missing += [f"publisher of {one.topic_name}" for one in self._status if not one.get_publisher_count()]
        return missing if self.report_s else [*missing, "message of derain_node on /diagnostics"]

    def _send(self, message: Message) -> None:
        """Publish a message, and wait for the answer if it is a frame."""
        answer_s = self.args.answer_timeout
        if message.topic not in self._frames:
            super()._send(message)
            if message.topic in self._infos:
                self._wait_acknowledged(self.publishers_of[message.topic])
            return
        self._tell_time(message.time_ns)
        self._wait_acknowledged(self.clock_publisher)
        self._reasons.clear()
        dropped, self.idle_reports = self.total("dropped"), 0
        self.publishers_of[message.topic].publish(message.data)
        try:
            deserialize(message.data, message.topic.type)
        except ValueError:
            # Too damaged for the node to read: it is counted as dropped, which must not be taken for a later frame's
            # answer, or rejected by its middleware and never counted.
            self.spin_until(lambda: self.total("dropped") != dropped or self.idle_reports > 1, answer_s)
        else:
            stamp = header_stamp(message.data)
            if not self.spin_until(lambda: stamp in self._reasons or self.total("dropped") != dropped, answer_s):
                raise PlayerError(
                    f"derain_node gave no answer to the frame of {message.topic.name} at {stamp} ns "
                    f"within {answer_s:g} s"
                )
            if self._reasons.get(stamp) == BUILDING:
                self.spin_until(lambda: not all(self._ready.values()), READINESS_CHANGES_S)
                super()._wait_ready()
        self.time.set(message.time_ns)

    def _on_status(self, data: bytes) -> None:
        message = deserialize_message(data, DiagnosticArray)
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        self._reasons[header_stamp(data)] = values.get("reason", "")


@contextmanager
def open_player(
    source: Recording,
    args: argparse.Namespace,
    warn: Callable[[str], None],
    ros_args: list[str] | None,
    signals: Iterable[signal.Signals],
) -> Iterator[Player]:
    """What plays a recording, in the main thread. ros_args: of rclpy. signals: that it obeys. Raises BagError."""
    if missing := set(args.topic) - {topic.name for topic in source.topics}:
        raise BagError(f"{source.path} has no topic {', '.join(sorted(missing))}")
    advice = "; name an image topic with --camera"
    cameras = find_cameras(source, args.camera, advice) if args.lockstep or args.camera else []
    with ExitStack() as stack:
        context = rclpy.Context()
        rclpy.init(args=ros_args, context=context, signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown, context=context)
        player = (Lockstep if args.lockstep else Player)(source, cameras, args, warn, context)
        stack.callback(player.destroy_node)
        stack.callback(player.executor.shutdown)
        for number in signals:
            before = signal.signal(number, lambda number, _: player.signals.append(number))
            stack.callback(signal.signal, number, before)
        yield player
