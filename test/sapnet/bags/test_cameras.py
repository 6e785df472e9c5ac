"""Which topics of a recording are cameras, and how their outputs are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import bag_builders as bags
from bag_builders import START_NS, TYPES, Sent, camera_info, compressed, image, smooth_frames, text, write_bag
from sapnet.bags.cameras import Camera, find_cameras
from sapnet.bags.open import open_recording
from sapnet.errors import BagError

FRAME = smooth_frames(1)[0]
GRAY = FRAME[:, :, 0].copy()
Find = Callable[..., list[Camera]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """``find(messages, *topics)``: the cameras of a recording of these messages."""

    def run(messages: list[Sent], *topics: str) -> list[Camera]:
        with open_recording(write_bag(tmp_path / "bag", messages)) as bag:
            return find_cameras(bag, topics)

    return run


def declared(topic: str, words: str, content: bytes = b"\0" * 20) -> Sent:
    make = TYPES.types["sensor_msgs/msg/CompressedImage"]
    return bags.cdr(topic, START_NS, make(bags.header(START_NS), words, np.frombuffer(content, np.uint8)))


def names(cameras: list[Camera]) -> list[str]:
    return [camera.topic.name for camera in cameras]


def test_colour_is_found_and_what_is_gray_depth_or_label_is_not(find: Find) -> None:
    depth = np.zeros((24, 32), np.float32)
    messages = [
        text("/words", START_NS, "x"),
        image("/gray/image_raw", START_NS, GRAY, "mono8"),
        image("/depth/image_raw", START_NS, depth, "32FC1"),
        image("/depth/image_rect", START_NS, GRAY.astype(np.uint16), "16UC1"),
        image("/label/image", START_NS, GRAY, "8UC1"),
        image("/label/ids", START_NS, GRAY.astype(np.int32), "32SC1"),
        declared("/gray/small/compressed", "png", cv2.imencode(".png", GRAY)[1].tobytes()),
        declared("/label/small/compressed", "mono8; png compressed ", cv2.imencode(".png", GRAY)[1].tobytes()),
        declared("/depth/image_rect/compressedDepth", "16UC1; compressedDepth png"),
        image("/front/image_raw", START_NS, FRAME, "rgb8"),
        image("/rear/image_raw", START_NS, GRAY, "bayer_rggb8"),
        compressed("/side/image/compressed", START_NS, FRAME),
    ]
    assert names(find(messages)) == ["/front/image_raw", "/rear/image_raw", "/side/image/compressed"]


def test_raw_is_preferred_to_compressed_where_it_has_something_to_show(tmp_path: Path) -> None:
    messages = [
        compressed("/front/image_raw/compressed", START_NS, FRAME),
        image("/front/image_raw", START_NS, FRAME),
        compressed("/rear/image_raw/compressed", START_NS, FRAME),
    ]
    bag = write_bag(tmp_path / "bag", messages, topics=[("/rear/image_raw", "sensor_msgs/msg/Image")])
    with open_recording(bag) as source:
        assert names(find_cameras(source)) == ["/front/image_raw", "/rear/image_raw/compressed"]


def test_what_the_node_put_out_is_no_camera(find: Find) -> None:
    ours = ["/cam/derained/image", "derained/image", "/cam/streak_mask/image"]
    messages = [image(name, START_NS, FRAME) for name in (*ours, "/cam/image_raw", "/cam/underained/image")]
    small = [compressed(f"{name}/compressed", START_NS, FRAME) for name in ours]
    assert names(find([*messages, *small])) == ["/cam/image_raw", "/cam/underained/image"]


def test_outputs_and_camera_info_stand_beside_the_camera(find: Find) -> None:
    messages = [
        image("/front/image_raw", START_NS, FRAME),
        camera_info("/front/camera_info", START_NS),
        image("/rear/image_raw", START_NS, FRAME),
        camera_info("/camera_info", START_NS),
        image("plain", START_NS, FRAME),
    ]
    front, rear, plain = find(messages)
    assert front.info is not None
    assert front.info.name == "/front/camera_info"
    assert (rear.info, plain.info) == (None, None)
    assert [camera.output("derained/image") for camera in (front, rear, plain)] == [
        "/front/derained/image",
        "/rear/derained/image",
        "derained/image",
    ]
    assert front.output("streak_mask/image", compressed=True) == "/front/streak_mask/image/compressed"


def test_two_cameras_in_one_namespace_have_outputs_of_their_own(find: Find) -> None:
    messages: list[Any] = [
        image("/stereo/left", START_NS, FRAME),
        compressed("/stereo/right/compressed", START_NS, FRAME),
        image("/other/left", START_NS, FRAME),
        camera_info("/stereo/camera_info", START_NS),
    ]
    left, right, other = find(messages)
    assert [camera.output("derained/image") for camera in (left, right, other)] == [
        "/stereo/left/derained/image",
        "/stereo/right/derained/image",
        "/other/derained/image",
    ]
    assert left.info is right.info is not None


def test_two_transports_of_one_camera_cannot_be_derained_together(find: Find) -> None:
    raw, small = "/front/image_raw", "/front/image_raw/compressed"
    messages = [image(raw, START_NS, FRAME), compressed(small, START_NS, FRAME)]
    with pytest.raises(BagError, match=f"outputs of {raw} and {small} would have the same names"):
        find(messages, raw, small)
