"""Frames through derain_node over real DDS: headers, remaps, QoS, encodings, and those that never come."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from hypothesis import given
from hypothesis import strategies as st
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rig import pixels
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float32

from live import LocalNode, Peer, image, millis, wait_for
from sapnet_ros.qos import Losses

Start = Callable[..., LocalNode]
RNG = np.random.default_rng(0)
CAME, OVERWRITTEN, REPORTED = "came", "overwritten in a queue", "lost and reported"


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


def test_every_topic_carries_the_frames_header(peer: Peer, start_node: Start) -> None:
    start_node(warmup_sizes="[48x64]", publish_compressed="true")
    peer.wait_ready()
    received = {
        topic: peer.collect(kind, topic)
        for topic, kind in {
            "/derained/image": Image,
            "/derained/image/compressed": CompressedImage,
            "/streak_mask/image": Image,
            "/frame_status": DiagnosticArray,
            "/rain_score": Float32,
        }.items()
    }
    camera = peer.publisher(Image, "/image")
    frame = noise(48, 64)
    for number, stamp in enumerate((1500, 2750), 1):
        camera.publish(image(frame, stamp))
        wait_for(lambda n=number: all(len(messages) == n for messages in received.values()), "a message on each topic")
    for topic, messages in received.items():
        if topic != "/rain_score":
            assert [millis(m) for m in messages] == [1500, 2750], topic
            assert {m.header.frame_id for m in messages} == {"camera_optical"}, topic
    assert received["/derained/image"][0].encoding == "bgr8"
    np.testing.assert_array_equal(pixels(received["/derained/image"][0]), frame)  # the fake derains nothing
    assert received["/streak_mask/image"][0].encoding == "mono8"
    assert not pixels(received["/streak_mask/image"][0]).any()
    assert received["/derained/image/compressed"][0].format == "bgr8; jpeg compressed bgr8"
    status = received["/frame_status"][0].status[0]
    assert (status.name, status.level, status.message) == ("/derain_node: camera", b"\x00", "derained")
    values = {pair.key: pair.value for pair in status.values}
    assert values["reason"] == ""
    assert float(values["rain_score"]) == 0.0
    assert float(values["latency_ms"]) > 0


def test_one_remap_moves_all_inputs_and_outputs(peer: Peer, start_node: Start) -> None:
    start_node("-r", "image:=/cam/front/image_raw", "-r", "derained/image:=/clear/image", image_transport="compressed")
    infos = peer.collect(CameraInfo, "/clear/camera_info")
    derained = peer.collect(Image, "/clear/image")
    peer.publisher(CameraInfo, "/cam/front/camera_info").publish(CameraInfo(height=48, width=64))
    peer.wait_ready()
    camera = peer.publisher(CompressedImage, "/cam/front/image_raw/compressed")
    message = CompressedImage(format="bgr8; png compressed bgr8", header=image(noise(2, 2), 9).header)
    frame = noise(48, 64)
    message.data = array.array("B", cv2.imencode(".png", frame)[1].tobytes())
    camera.publish(message)
    wait_for(lambda: derained and infos, "the derained frame")
    np.testing.assert_array_equal(pixels(derained[0]), frame)
    assert millis(derained[0]) == millis(infos[0]) == 9


def test_a_qos_override_wins_and_switches_the_fallback_off(peer: Peer, start_node: Start) -> None:
    name = "qos_overrides./image.subscription.reliability"
    start_node("-p", f"{name}:=reliable", warmup_sizes="[48x64]")
    peer.wait_ready()
    camera = peer.node.create_publisher(Image, "/image", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    for stamp in range(20):
        camera.publish(image(noise(48, 64), stamp))
        time.sleep(0.05)
    status = peer.status()
    assert (status["received"], status["best_effort_fallback"]) == ("0", "false")


def test_same_encoding_keeps_the_format_and_the_alpha(peer: Peer, start_node: Start) -> None:
    start_node(output_encoding="same", enabled="false")
    derained = peer.collect(Image, "/derained/image")
    camera = peer.publisher(Image, "/image")
    sent = {"rgb8": noise(48, 64), "rgba8": noise(48, 64, 4), "bgra8": noise(48, 64, 4), "mono8": noise(48, 64, 1)}
    for stamp, (encoding, frame) in enumerate(sent.items(), 1):
        camera.publish(image(frame, stamp, encoding))
        wait_for(lambda n=stamp: len(derained) == n, encoding)
        assert derained[-1].encoding == encoding
        np.testing.assert_array_equal(pixels(derained[-1]), frame)
    camera.publish(image(np.zeros((48, 64, 2), np.uint8), 9, "yuyv"))
    wait_for(lambda: len(derained) == 5, "yuyv")
    assert derained[-1].encoding == "bgr8"


def test_thermal_frames_keep_their_depth(peer: Peer, start_node: Start) -> None:
    """14 bits in mono16, of either byte order; the fake backend takes nothing out."""
    start_node(output_encoding="same", input_bits=14, warmup_sizes="[48x64]")
    peer.wait_ready()
    derained, compared = peer.collect(Image, "/derained/image"), peer.collect(Image, "/comparison/image")
    camera = peer.publisher(Image, "/image")
    thermal = RNG.integers(0, 2**14, (48, 64), np.uint16)
    for stamp, order in enumerate("<>", 1):
        message = image(thermal.astype(f"{order}u2"), stamp, "mono16")
        message.is_bigendian = int(order == ">")
        camera.publish(message)
        wait_for(lambda n=stamp: len(derained) == len(compared) == n, "the frame")
        assert derained[-1].encoding == "mono16"
        np.testing.assert_array_equal(np.frombuffer(derained[-1].data, "<u2").reshape(48, 64), thermal)
        assert (compared[-1].encoding, millis(compared[-1])) == ("bgr8", stamp)
        for shown in np.hsplit(pixels(compared[-1])[:, :, 0], 2):  # original and derained frame, as the network gets it
            np.testing.assert_array_equal(shown, np.rint(thermal * (255 / (2**14 - 1))))


@given(st.lists(st.sampled_from([CAME, OVERWRITTEN, REPORTED])), st.integers(0, 1000), st.integers(0, 3))
def test_what_came_and_what_was_lost_is_what_was_sent(fates: list[str], first: int, delay: int) -> None:
    """However late the reports come."""
    fates = [CAME, *fates, CAME]
    losses = Losses()
    for subscription in (1, 2):
        losses.begin()
        reports = [0] * (len(fates) + delay)
        for number, fate in enumerate(fates):
            reports[number + delay] += fate is REPORTED
            losses.reported += reports[number]
            if fate is CAME:
                losses.note_number(first + number, lambda: True)
        losses.reported += sum(reports[len(fates) :])
        assert losses.total == subscription * (len(fates) - fates.count(CAME))


def test_frames_overwritten_in_the_nodes_own_queue_are_counted(peer: Peer, start_node: Start) -> None:
    start_node("-p", "qos_overrides./image.subscription.depth:=1", warmup_sizes="[48x64]")
    camera: Any = peer.node.create_publisher(Image, "/image", QoSProfile(depth=1000))
    wait_for(lambda: camera.get_subscription_count() == 1, "the node's subscription")
    message = image(np.zeros((48, 64, 3), np.uint8), 1)

    def counts() -> tuple[int, int]:
        values = peer.status()
        return int(values["received"]), int(values["lost_in_transport"])

    camera.publish(message)
    wait_for(lambda: counts() == (1, 0), "the first frame, from which on numbers tell")
    for _ in range(1000):  # faster than any node takes them
        camera.publish(message)
    wait_for(lambda: sum(counts()) == 1001, "every frame to be received or counted as lost")
    assert counts()[1] > 0
