"""The player of recordings over DDS: what subscribers get, and when time passes."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bag_builders import START_NS, Sent, camera_info, text, wheel
from live import NodeProcess, Peer, wait_for
from replay_bags import LATCHED, SENSOR, drive, record, talk

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool

from sapnet_ros.replay.bag_publisher import main
from sapnet_ros.replay.player import PlayClock

pytestmark = pytest.mark.once

LATCHED_PROFILE = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SECOND_NS = 10**9


Play = Callable[..., NodeProcess]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    """Records messages and plays them; a process that still runs after the test is killed."""
    started: list[NodeProcess] = []

    def start(messages: Sequence[Sent], *words: str, profiles: dict[str, Qos] | None = None) -> NodeProcess:
        bag = record(tmp_path / f"bag{len(started)}", messages, profiles)
        command = [sys.executable, "-m", "sapnet_ros.replay.bag_publisher", str(bag), *words]
        started.append(NodeProcess(command=command, log=bag.with_suffix(".log")))
        return started[-1]

    yield start
    for playing in started:
        playing.process.kill()
        playing.process.wait()
        assert "Traceback" not in playing.log.read_text()


def hear(peer: Peer, message_type: type, topic: str, profile: Any = 100, raw: bool = False) -> list[Any]:
    """A list that fills with what comes on a topic, from whoever comes to publish there."""
    heard: list[Any] = []
    peer.node.create_subscription(message_type, topic, heard.append, profile, raw=raw)
    return heard


def assert_sent(heard: Sequence[bytes], sent: Sequence[bytes]) -> None:
    """The same messages; the middleware fills their last four bytes up."""
    for got, expected in zip(heard, sent, strict=True):
        assert bytes(got) == expected + bytes(-len(expected) % 4)


def clock_ns(message: Clock) -> int:
    return int(message.clock.sec) * SECOND_NS + int(message.clock.nanosec)


def test_messages_come_as_they_were_recorded_and_late_listeners_get_what_is_latched(peer: Peer, play: Play) -> None:
    frames = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(3)]
    messages = [
        *drive(["/cam"], frames),
        text("/map", START_NS, "latched"),
        *talk("/talk", 12),
        wheel("/wheel", START_NS, 2.0),
        text("/twice", START_NS, "of two types"),
        camera_info("/twice", START_NS),
    ]
    ticks, talked = hear(peer, Clock, "/clock"), hear(peer, String, "/talk")
    images = hear(peer, Image, "/cam/image_raw", QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT), True)
    infos = hear(peer, CameraInfo, "/cam/camera_info", raw=True)
    # What waits for another gate gives the subscriptions time to be found.
    gate = peer.node.create_publisher(Bool, "go", LATCHED_PROFILE)
    profiles = {"/map": LATCHED, "/cam/image_raw": SENSOR}
    playing = play(messages, "--ready", "go", "--loop", "--rate", "2", profiles=profiles)
    for topic in ("/cam/image_raw", "/cam/camera_info", "/talk", "/clock"):
        wait_for(lambda t=topic: peer.node.count_publishers(t), f"a publisher of {topic}")
    (offered,) = peer.node.get_publishers_info_by_topic("/cam/image_raw")
    assert offered.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    gate.publish(Bool(data=True))
    wait_for(lambda: [m.data for m in talked].count("11"), "the last message")
    late = hear(peer, String, "/map", LATCHED_PROFILE)
    wait_for(lambda: late, "what is latched")
    wait_for(lambda: [m.data for m in talked].count("3") >= 2, "the second round")
    assert playing.stop() == 0
    assert [message.data for message in talked[:12]] == [str(number) for number in range(12)]
    assert_sent(images[:3], [m.data for m in messages if m.topic == "/cam/image_raw"])
    assert_sent(infos[:3], [m.data for m in messages if m.topic == "/cam/camera_info"])
    assert late[0].data == "latched"
    (line,) = (line for line in playing.log.read_text().splitlines() if "not played" in line)
    assert "/wheel (our_msgs/msg/Wheel): its type is not installed here" in line
    assert "/twice (" in line
    # Time runs up, from the recording's start, and begins again with each round.
    times = [clock_ns(message) for message in ticks]
    assert min(times) == START_NS
    assert max(times) == START_NS + 11 * 100_000_000
    backwards = [number for number in range(1, len(times)) if times[number] < times[number - 1]]
    assert backwards
    assert {times[number] for number in backwards} == {START_NS}
    # Between messages, it goes on.
    assert set(times) - {message.time_ns for message in messages}


def test_it_pauses_by_signal_and_by_service(peer: Peer, play: Play) -> None:
    talked, ticks = hear(peer, String, "/talk", 1000), hear(peer, Clock, "/clock")
    playing = play(list(talk("/talk", 2000, 20_000_000)))

    def stands_still() -> bool:
        """Whether three ticks in a row tell the same time."""
        return len(ticks) > 2 and len({clock_ns(message) for message in ticks[-3:]}) == 1

    wait_for(lambda: talked, "the first message")
    playing.process.send_signal(signal.SIGUSR1)
    wait_for(stands_still, "the pause")
    ticks.clear()  # what was sent before the pause has come when as many more have
    wait_for(lambda: len(ticks) > 10, "ticks")
    paused_at = len(talked)
    ticks.clear()
    wait_for(lambda: len(ticks) > 10, "more ticks")
    assert stands_still()
    assert len(talked) == paused_at
    playing.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: len(talked) > paused_at + 5, "messages after the pause")
    assert peer.call(SetBool, "/bag_player/pause", data=True).success
    wait_for(stands_still, "the second pause")
    assert peer.call(SetBool, "/bag_player/pause", data=False).success
    paused_at = len(talked)
    wait_for(lambda: len(talked) > paused_at + 5, "messages after the second pause")
    assert playing.stop() == 1  # not all was played
    numbers = [int(message.data) for message in talked]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_part_of_a_recording_some_of_its_topics_and_qos_overrides(peer: Peer, play: Play) -> None:
    talked, other = hear(peer, String, "/talk"), hear(peer, String, "/other")
    latched = hear(peer, String, "/map", LATCHED_PROFILE)
    messages = [*talk("/talk", 10), *talk("/other", 10), *(text("/map", START_NS, words) for words in ("older", "old"))]
    gate = peer.node.create_publisher(Bool, "go", LATCHED_PROFILE)
    words = ["--start", "0.25", "--duration", "0.5", "--ready", "go", "--topic", "/talk", "--topic", "/map"]
    override = "qos_overrides./talk.publisher.reliability:=reliable"
    playing = play(messages, *words, "--ros-args", "-p", override, profiles={"/map": LATCHED, "/talk": SENSOR})
    wait_for(lambda: peer.node.count_publishers("/talk") and peer.node.count_publishers("/map"), "the player")
    (offered,) = peer.node.get_publishers_info_by_topic("/talk")
    assert offered.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    gate.publish(Bool(data=True))
    assert playing.wait() == 0
    wait_for(lambda: len(talked) == 5, "the messages")
    assert [message.data for message in talked] == ["3", "4", "5", "6", "7"]
    assert latched[-1].data == "old"
    assert not other


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--topic", "/nowhere"], "has no topic /nowhere"),
        (["--start", "9"], "nothing to play from 9 s on"),
        (["--lockstep"], "has no color camera; name an image topic with --camera. It holds /talk"),
    ],
)
def test_input_of_no_use_ends_it(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(record(tmp_path / "bag", list(talk("/talk", 2)))), *words]) == 2
    assert line in capsys.readouterr().err


def test_lockstep_ends_where_no_answer_comes(peer: Peer, play: Play, start_node: Callable[..., Any]) -> None:
    remaps = ("-r", "image:=/cam/image_raw", "-r", "derained/image:=/clean/image")
    start_node(*remaps, fake__mode="hang", hang_timeout_s=3600.0, warmup_sizes="[48x64]")
    frames = [np.full((48, 64, 3), number, np.uint8) for number in range(2)]
    playing = play(list(drive(["/cam"], frames)), "--lockstep", "--answer-timeout", "4")
    assert playing.wait() == 1
    assert f"no answer to the frame of /cam/image_raw at {START_NS} ns within 4 s" in playing.log.read_text()


def test_time_passes_at_its_rate_and_stands_still_while_it_is_paused() -> None:
    steady_ns = [5_000]
    clock = PlayClock(2.5, lambda: steady_ns[0])
    clock.set(1_000_000)
    steady_ns[0] += 400
    assert clock.now_ns() == 1_001_000
    assert clock.seconds_until(1_002_000) == pytest.approx(400e-9)
    assert clock.seconds_until(1_000_500) < 0
    clock.pause(True)
    steady_ns[0] += 1000
    assert clock.now_ns() == 1_001_000
    assert clock.seconds_until(0) == math.inf
    clock.pause(False)
    steady_ns[0] += 2
    assert clock.now_ns() == 1_001_005
