"""Frames of an image, a folder of images, a video or a rosbag2 recording, one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.errors import BagError, ImageFormatError, SapnetError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

Frame = NDArray[np.uint8]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
BAG_SUFFIXES = (".mcap", ".db3")

_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_GRAY = ("mono", "8UC1", "16UC1", "32FC1")
# Containers count the frames of a good video a little wrong; one that is cut off lacks more than this share.
_MISSING_SHARE = 0.1


@dataclass(frozen=True)
class FrameSource:
    """Iterates (name, frame) as often as asked, reading as it goes; frames are uint8 (H, W, 3) BGR.

    name: a file's name for images, a running number for the frames of a video or bag.
    fps: frames per second; None for images. count: frames to expect; None if unknown.
    Iterating raises ImageFormatError or BagError at a frame that cannot be read.
    """

    path: Path
    fps: float | None
    count: int | None
    frames: Callable[[], Iterator[tuple[str, Frame]]]

    def __iter__(self) -> Iterator[tuple[str, Frame]]:
        return self.frames()


def open_source(path: str | Path) -> FrameSource:
    """Open an image, a folder of images, a video, or a rosbag2 folder or file with a colour image topic.

    Raises SapnetError where nothing is, ImageFormatError or BagError where it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise SapnetError(f"{path} does not exist; give an image, a folder of images, a video or a rosbag2 recording")
    if path.suffix.lower() in BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        return _open_bag(path)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return FrameSource(path, None, 1, partial(_images, [path]))
    return _open_video(path)


def read_image(path: Path) -> Frame:
    """An image file as uint8 (H, W, 3) BGR, upright; alpha is dropped, 16 bit scaled to 8. Raises ImageFormatError."""
    data = np.fromfile(path, np.uint8)
    trouble = "it may be damaged"
    try:
        frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as err:  # a size in the header that is beyond OpenCV's limits
        frame, trouble = None, str(err)
    if frame is None:
        raise ImageFormatError(f"{path} is not an image that OpenCV can read; {trouble}", "decode")
    return cast(Frame, frame)


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sorts ``frame2`` before ``frame10``."""
    parts = [part for part in re.split(r"(\d+)", name.lower()) if part]
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts]


def _open_folder(path: Path) -> FrameSource:
    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    if not files:
        raise SapnetError(f"{path} holds no images; expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    files.sort(key=lambda file: natural_key(file.name))
    return FrameSource(path, None, len(files), partial(_images, files))


def _images(files: list[Path]) -> Iterator[tuple[str, Frame]]:
    for file in files:
        yield file.name, read_image(file)


def _open_video(path: Path) -> FrameSource:
    with _capture(path) as capture:
        fps = capture.get(cv2.CAP_PROP_FPS)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if not capture.grab():
            raise ImageFormatError(f"{path} opens as a video but holds no frame that can be read", "decode")
    return FrameSource(path, fps if fps > 0 else None, count if count > 0 else None, partial(_video_frames, path))


@contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    # FFmpeg writes to stderr on its own; what is wrong is in our error.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ImageFormatError(f"{path} is not a video that OpenCV can read; it may be damaged", "decode")
        yield capture
    finally:
        capture.release()


def _video_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    with _capture(path) as capture:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        index = 0
        while True:
            success, frame = capture.read()
            if not success:
                break
            yield f"{index:06d}", cast(Frame, frame)
            index += 1
    if index < announced * (1 - _MISSING_SHARE):
        raise ImageFormatError(f"{path} ends after {index} of {announced} frames; it may be cut off", "decode")


def _open_bag(path: Path) -> FrameSource:
    with _reader(path) as reader:
        topic = _colour_image_topic(path, reader)
        count = sum(connection.msgcount for connection in reader.connections if connection.topic == topic)
        seconds = reader.duration / 1e9
    fps = (count - 1) / seconds if count > 1 and seconds > 0 else None
    return FrameSource(path, fps, count, partial(_bag_frames, path, topic))


@contextmanager
def _reader(path: Path) -> Iterator[AnyReader]:
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore
    except ImportError as err:
        raise BagError("reading rosbag2 recordings needs rosbags: pip install rosbags") from err
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            yield reader
    except (AnyReaderError, OSError) as err:
        raise BagError(f"{path} cannot be read as a rosbag2 recording: {err}") from err


def _colour_image_topic(path: Path, reader: AnyReader) -> str:
    found = [connection for connection in reader.connections if connection.msgtype in _IMAGE_TYPES]
    for connection in found:
        if _is_colour(reader, connection):
            return connection.topic
    seen = ", ".join(sorted({f"{connection.topic} ({connection.msgtype})" for connection in reader.connections}))
    raise BagError(f"{path} has no topic with colour images; it holds {seen or 'nothing'}")


def _is_colour(reader: AnyReader, connection: Connection) -> bool:
    for _, _, data in reader.messages(connections=[connection]):
        message = cast(Any, reader.deserialize(data, connection.msgtype))
        encoding = getattr(message, "encoding", "") or message.format
        return not encoding.startswith(_GRAY) and "compressedDepth" not in encoding
    return False


def _bag_frames(path: Path, topic: str) -> Iterator[tuple[str, Frame]]:
    from sapnet.messages import decode_compressed, decode_image

    with _reader(path) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        for index, (connection, _, data) in enumerate(reader.messages(connections=connections)):
            message = reader.deserialize(data, connection.msgtype)
            decode = decode_image if connection.msgtype == _IMAGE_TYPES[0] else decode_compressed
            yield f"{index:06d}", decode(message).bgr
