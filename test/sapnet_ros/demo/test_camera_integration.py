"""The player against a stand-in for derain_node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from live import Peer, wait_for

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Bool

from sapnet_ros.demo.camera import EXIT_INPUT, Player, PlayerError, main, play

FRAME = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


class StandIn:
    """Says that it is ready for each size it hears of, and gives every frame back."""

    def __init__(self, peer: Peer, returns: Callable[[int], bool] = lambda index: True) -> None:
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        self._returns = returns
        self._sizes: set[tuple[int, int]] = set()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._ready = peer.node.create_publisher(Bool, "derain_node/ready", latched)
        self._status = peer.node.create_publisher(DiagnosticArray, "frame_status", 5)
        peer.node.create_subscription(Image, "image", self._on_image, 5)
        peer.node.create_subscription(CameraInfo, "camera_info", self._on_info, 5)

    def _on_image(self, message: Image) -> None:
        assert (message.height, message.width) in self._sizes
        self.images.append(message)
        if self._returns(len(self.images) - 1):
            self._status.publish(DiagnosticArray(header=message.header))

    def _on_info(self, message: CameraInfo) -> None:
        self.infos.append(message)
        if (message.height, message.width) not in self._sizes:
            self._ready.publish(Bool(data=False))
            self._sizes.add((message.height, message.width))
            self._ready.publish(Bool(data=True))


@pytest.fixture
def player(peer: Peer) -> Iterator[Player]:
    player = Player(context=peer.context)
    yield player
    player.destroy_node()


def test_every_frame_arrives_after_its_camera_info(peer: Peer, player: Player) -> None:
    node = StandIn(peer)
    player.wait_for_subscribers(1, 10)
    frames = [FRAME, FRAME[:, :16], np.ascontiguousarray(FRAME[::-1])]
    sent = list(play(player, frames, rate=50.0, open_loop=False, ready_s=10, return_s=10))
    wait_for(lambda: len(node.images) == 3, "the images")
    stamps = [message.header.stamp for message in node.images]
    assert [stamp.sec * 10**9 + stamp.nanosec for stamp in stamps] == [one.stamp_ns for one in sent]
    assert sorted(one.stamp_ns for one in sent) == [one.stamp_ns for one in sent]
    infos = {(info.header.stamp.sec, info.header.stamp.nanosec): info for info in node.infos}
    for frame, message in zip(frames, node.images, strict=True):
        assert (message.encoding, message.step) == ("bgr8", 3 * frame.shape[1])
        np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(frame.shape), frame)
        info = infos[message.header.stamp.sec, message.header.stamp.nanosec]
        assert (info.height, info.width) == frame.shape[:2]
        assert info.header.frame_id == message.header.frame_id == "camera"


def test_rate_is_a_limit(peer: Peer, player: Player) -> None:
    StandIn(peer)
    player.wait_for_subscribers(1, 10)
    player.announce(*FRAME.shape[:2], timeout_s=10)
    started_s = time.monotonic()
    assert len(list(play(player, [FRAME] * 5, rate=20.0, open_loop=False, ready_s=10, return_s=10))) == 5
    # However late each frame is, the next one is sent no sooner than a period after it was due.
    assert time.monotonic() - started_s >= 4 / 20.0


def test_one_lost_frame_is_survived_and_many_are_an_error(peer: Peer, player: Player) -> None:
    node = StandIn(peer, returns=lambda index: index % 2 == 0 and index < 4)
    player.wait_for_subscribers(1, 10)
    done = []
    with pytest.raises(PlayerError, match="none of the last 3 frames"):
        done.extend(play(player, [FRAME] * 20, rate=50.0, open_loop=False, ready_s=10, return_s=1.0))
    assert len(node.images) == 6


def test_open_loop_does_not_wait(peer: Peer, player: Player) -> None:
    node = StandIn(peer, returns=lambda index: index == 4)
    player.wait_for_subscribers(1, 10)
    sent = list(play(player, [FRAME] * 5, rate=50.0, open_loop=True, ready_s=10, return_s=10))
    assert len(sent) == len(node.images) == 5


def test_nobody_listens(player: Player) -> None:
    with pytest.raises(PlayerError, match=r"0 of 1 subscribers of /image after 0\.2 s"):
        player.wait_for_subscribers(1, 0.2)


def test_node_that_is_never_ready(player: Player) -> None:
    with pytest.raises(PlayerError, match="not ready for 20x30 frames after"):
        player.announce(20, 30, 0.3)


def test_wrong_input_has_its_own_exit_status(peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StandIn(peer)
    (tmp_path / "1.png").write_bytes(b"broken")
    assert main([str(tmp_path), "--ready-timeout", "10"]) == EXIT_INPUT
    assert "1.png is not a picture that can be read" in capsys.readouterr().err


def test_main_plays_a_folder(peer: Peer, tmp_path: Path) -> None:
    node = StandIn(peer)
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), FRAME + index)
    log = tmp_path / "sent.log"
    assert main([str(tmp_path), "--frames", "2", "--sent", str(log), "--ready-timeout", "10"]) == 0
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[2:] for line in lines] == [["20", "30"]] * 2
    assert [message.header.stamp.nanosec for message in node.images] == [int(line[0]) % 10**9 for line in lines]
