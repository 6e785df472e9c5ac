"""Lockstep: the player waits for derain_node's answer to each frame, so that a replay does not depend on timing."""

from __future__ import annotations

from itertools import islice

from sapnet.bags import Message, Recording
from sapnet.bags.types import MessageError, deserialize
from sapnet_ros.fate import BUILDING
from sapnet_ros.replay.player import BagPlayer, RunError
from sapnet_ros.replay.recorder import Frames, Recorder

# With a queue of one, Fast DDS asks after each message whether it has come; else only every three seconds.
LOCKSTEP_DEPTH = 1
ANSWER_TIMEOUT_S = 60.0
# A node that does not know a size yet withdraws its readiness within this time.
READINESS_CHANGES_S = 1.0


class Lockstep:
    """Sends a recording's messages, and goes on from each frame's time once that is answered.

    A frame is answered when the recorder has all outputs that the node made of it, or by diagnostics that count one
    more dropped frame. It is sent once the node has acknowledged all earlier camera_info.
    """

    def __init__(self, player: BagPlayer, recorder: Recorder) -> None:
        self._player, self._recorder = player, recorder
        self._frames = {camera.source.topic: frames for camera, frames in recorder.frames.items()}
        self._infos = {camera.source.info for camera in recorder.frames if camera.has_info}

    def begin(self, source: Recording) -> None:
        """Send each camera's first camera_info ahead, so that the first frame has one. Raises RunError."""
        for topic in self._infos.intersection(self._player.topics):
            for info in islice(source.messages([topic]), 1):
                self._player.publish(info)
                self._hand_over(info)

    def send(self, message: Message) -> None:
        """Publish a message, and wait for the answer if it is a frame. Raises RunError."""
        self._player.tell_time(message.time_ns)
        dropped = self._recorder.total("dropped")
        frames = self._frames.get(message.topic)
        answered = frames.answered if frames is not None else 0
        self._recorder.idle_reports = 0
        self._player.publish(message)
        if message.topic in self._infos:
            self._hand_over(message)
        if frames is not None:
            self._await(message, frames, answered, dropped)
            self._player.time.set(message.time_ns)

    def _await(self, message: Message, frames: Frames, answered: int, dropped: int) -> None:
        player, recorder = self._player, self._recorder

        def is_answered() -> bool:
            if recorder.total("dropped") > dropped or (frames.answered > answered and frames.complete):
                return True
            # The node's middleware may have rejected a damaged frame: then nothing ever comes.
            return recorder.idle_reports > 1 and is_damaged(message)

        if not player.wait(is_answered, ANSWER_TIMEOUT_S):
            raise RunError(
                f"derain_node gave no answer to the frame of {message.topic.name} that was logged at "
                f"{message.time_ns} ns within {ANSWER_TIMEOUT_S:g} s"
            )
        if frames.answered > answered and frames.reason == BUILDING:
            player.wait(lambda: not player.ready, READINESS_CHANGES_S)
            player.wait_ready()

    def _hand_over(self, info: Message) -> None:
        if not self._player.wait_taken(info.topic, ANSWER_TIMEOUT_S):
            raise RunError(f"a subscriber of {info.topic.name} did not take a message within {ANSWER_TIMEOUT_S:g} s")


def is_damaged(message: Message) -> bool:
    """Whether an image message cannot be deserialized."""
    try:
        deserialize(message.data, message.topic.type)
    except MessageError:
        return True
    return False
