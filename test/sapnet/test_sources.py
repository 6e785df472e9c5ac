"""Frames of images, folders, videos and recordings."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from sapnet.errors import BagError, ImageFormatError, SapnetError
from sapnet.files import natural_key
from sapnet.media.sources import open_source, read_image

TYPES = get_typestore(Stores.ROS2_JAZZY)


def flat(value: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (48, 32))
    for index in range(frames):
        writer.write(flat(20 * index))
    writer.release()


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


def test_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), flat(7))
    source = open_source(tmp_path / "a.png")
    ((name, frame),) = source
    assert (name, source.count, source.fps) == ("a.png", 1, None)
    np.testing.assert_array_equal(frame, flat(7))


@pytest.mark.parametrize("pixels", [np.full((20, 30), 9, np.uint8), np.full((20, 30, 4), 9, np.uint8)])
def test_gray_and_alpha_images_become_bgr(tmp_path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), flat(9, 20, 30))


def test_sixteen_bit_images_are_scaled(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30, 3), 0x8080, np.uint16))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), flat(0x80, 20, 30))


def test_folder_in_natural_order_with_unequal_sizes(tmp_path: Path) -> None:
    sizes = {"f10.png": (20, 30), "f2.png": (30, 20), "F1.JPG": (16, 16)}
    for name, size in sizes.items():
        cv2.imwrite(str(tmp_path / name), flat(50, *size))
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source(tmp_path)
    assert source.count == 3
    assert [(name, frame.shape[:2]) for name, frame in source] == [
        ("F1.JPG", (16, 16)),
        ("f2.png", (30, 20)),
        ("f10.png", (20, 30)),
    ]


def test_a_png_that_claims_more_pixels_than_opencv_takes_is_an_error(tmp_path: Path) -> None:
    content = bytearray(cv2.imencode(".png", flat(9))[1].tobytes())
    content[16:24] = struct.pack(">II", 65000, 65000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "huge.png").write_bytes(content)
    with pytest.raises(ImageFormatError, match=r"huge\.png is not an image that OpenCV can read"):
        read_image(tmp_path / "huge.png")


def test_natural_key() -> None:
    names = ["b1", "a10", "a9", "a", "10", "9", "a9b2", "a9b10"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a9", "a9b2", "a9b10", "a10", "b1"]


def test_sources_are_lazy_and_iterate_again(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), flat(1))
    (tmp_path / "2.png").write_bytes(b"broken")
    source = open_source(tmp_path)
    assert next(iter(source))[0] == "1.png"
    assert next(iter(source))[0] == "1.png"
    with pytest.raises(ImageFormatError, match=r"2\.png is not an image that OpenCV can read"):
        list(source)


def test_video(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 5)
    source = open_source(tmp_path / "v.mp4")
    frames = list(source)
    assert (source.count, source.fps) == (5, pytest.approx(12.0))
    assert [name for name, _ in frames] == [f"{index:06d}" for index in range(5)]
    assert [int(frame.mean()) for _, frame in frames] == pytest.approx([0, 20, 40, 60, 80], abs=3)


@pytest.mark.parametrize("content", [b"", b"not a video" * 100])
def test_broken_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(ImageFormatError, match=r"v\.mp4 is not a video that OpenCV can read"):
        open_source(tmp_path / "v.mp4")


def test_video_that_is_cut_off(tmp_path: Path, shared_data: Path) -> None:
    whole = (shared_data / "driving" / "highway_1280x720.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(whole[: len(whole) // 2])
    frames = iter(open_source(tmp_path / "v.mp4"))
    assert next(frames)[1].shape == (720, 1280, 3)
    with pytest.raises(ImageFormatError, match=r"ends after \d+ of 38 frames"):
        list(frames)


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_bag_gives_its_first_colour_topic(tmp_path: Path, storage: StoragePlugin) -> None:
    gray = image_message(np.zeros((32, 48), np.uint8), "mono8")
    colour = [image_message(flat(value)) for value in (1, 2, 3)]
    bag = write_bag(tmp_path / "bag", {"/gray": [gray], "/colour": colour, "/other": [image_message(flat(9))]}, storage)
    for path in (bag, next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))):
        source = open_source(path)
        frames = list(source)
        assert (source.count, source.fps) == (3, pytest.approx(10.0))
        assert [name for name, _ in frames] == ["000000", "000001", "000002"]
        for value, (_, frame) in enumerate(frames, 1):
            np.testing.assert_array_equal(frame, flat(value))


def test_bag_of_compressed_images(tmp_path: Path) -> None:
    header = image_message(flat(0)).header
    data = cv2.imencode(".png", flat(80))[1].reshape(-1)
    message = TYPES.types["sensor_msgs/msg/CompressedImage"](header, "bgr8; png compressed bgr8", data)
    ((_, frame),) = open_source(write_bag(tmp_path / "bag", {"/colour/compressed": [message]}))
    np.testing.assert_array_equal(frame, flat(80))


def test_bag_without_colour_images(shared_data: Path) -> None:
    with pytest.raises(BagError, match=r"no topic with colour images; it holds .*String"):
        open_source(shared_data / "bags" / "mcap" / "talker")


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_damaged_bag(tmp_path: Path, storage: StoragePlugin) -> None:
    bag = write_bag(tmp_path / "bag", {"/colour": [image_message(flat(1))] * 5}, storage)
    file = next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(BagError, match="cannot be read as a rosbag2 recording"):
        list(open_source(bag))


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_unfinished_bag_gives_what_it_has_and_says_so(tmp_path: Path, storage: StoragePlugin) -> None:
    bag = write_bag(tmp_path / "bag", {"/colour": [image_message(flat(value)) for value in (1, 2, 3)]}, storage)
    (bag / "metadata.yaml").unlink()
    frames = iter(open_source(bag))
    assert [int(frame.mean()) for _, frame in (next(frames), next(frames), next(frames))] == [1, 2, 3]
    with pytest.raises(
        BagError, match=r"was read as far as it goes: no metadata\.yaml, so the recording was not finish"
    ):
        next(frames)


def test_ros1_bag(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS1_NOETIC)
    stamp = types.types["builtin_interfaces/msg/Time"](1, 2)
    header = types.types["std_msgs/msg/Header"](0, stamp, "camera")
    make = types.types["sensor_msgs/msg/Image"]
    with Ros1Writer(tmp_path / "a.bag") as bag:
        connection = bag.add_connection("/colour", make.__msgtype__, typestore=types)
        for value in (7, 8):
            message = make(header, 32, 48, "bgr8", 0, 144, flat(value).reshape(-1))
            bag.write(connection, value * 10**8, types.serialize_ros1(message, make.__msgtype__))
    source = open_source(tmp_path / "a.bag")
    assert (source.count, source.fps) == (2, pytest.approx(10.0))
    assert [int(frame.mean()) for _, frame in source] == [7, 8]


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(SapnetError, match="nowhere does not exist; give an image"):
        open_source(tmp_path / "nowhere")


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(SapnetError, match="holds no images"):
        open_source(tmp_path)
