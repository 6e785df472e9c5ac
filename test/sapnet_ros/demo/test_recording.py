"""The demo's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from sapnet.errors import BagError
from sapnet_ros.demo.recording import open_input

TYPES = get_typestore(Stores.ROS2_JAZZY)


def flat(value: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def image_message(frame: np.ndarray, encoding: str = "bgr8") -> Any:
    height, width = frame.shape[:2]
    header = TYPES.types["std_msgs/msg/Header"](TYPES.types["builtin_interfaces/msg/Time"](1, 2), "camera")
    make = TYPES.types["sensor_msgs/msg/Image"]
    return make(header, height, width, encoding, 0, frame.strides[0], frame.reshape(-1))


def write_bag(path: Path, topics: dict[str, list[Any]], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    with Writer(path, version=9, storage_plugin=storage) as bag:
        for topic, messages in topics.items():
            name = messages[0].__msgtype__
            connection = bag.add_connection(topic, name, typestore=TYPES)
            for index, message in enumerate(messages):
                bag.write(connection, index * 10**8, TYPES.serialize_cdr(message, name))
    return path


def test_bag_gives_its_first_colour_topic(tmp_path: Path) -> None:
    gray = image_message(np.zeros((32, 48), np.uint8), "mono8")
    colour = [image_message(flat(value)) for value in (1, 2, 3)]
    bag = write_bag(tmp_path / "bag", {"/gray": [gray], "/colour": colour, "/other": [image_message(flat(9))]})
    for path in (bag, next(file for file in bag.iterdir() if file.suffix == ".mcap")):
        source = open_input(path)
        frames = list(source)
        assert (source.count, source.fps) == (3, pytest.approx(10.0))
        assert [name for name, _ in frames] == ["000000", "000001", "000002"]
        for value, (_, frame) in enumerate(frames, 1):
            np.testing.assert_array_equal(frame, flat(value))


def test_a_bag_that_lacks_a_file_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    frames = [image_message(flat(value)) for value in (1, 2, 3)]
    bag = write_bag(tmp_path / "bag", {"/colour": frames}, StoragePlugin.MCAP)
    metadata = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(metadata.replace("  - bag.mcap", "  - bag.mcap\n  - bag_1.mcap"))
    source = iter(open_input(bag))
    assert [int(frame.mean()) for _, frame in (next(source), next(source), next(source))] == [1, 2, 3]
    with pytest.raises(BagError, match=r"can be read only in part: bag_1\.mcap of the recording is missing"):
        next(source)


def test_what_is_no_recording_is_read_as_pictures_and_videos(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), flat(7))
    for path in (tmp_path, tmp_path / "a.png"):
        [(name, frame)] = open_input(path)
        assert name == "a.png"
        np.testing.assert_array_equal(frame, flat(7))
