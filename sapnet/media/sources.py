"""Frames of an image, a folder of images, a video or a recording, one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.errors import BagError, ImageFormatError, SapnetError
from sapnet.files import natural_key

if TYPE_CHECKING:
    from sapnet.bags.recording import Topic

Frame = NDArray[np.uint8]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
BAG_SUFFIXES = (".mcap", ".db3", ".bag")

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
    """Open an image, a folder of images, a video, or a recording of ROS 1 or ROS 2 with a colour camera.

    Raises SapnetError where nothing is, ImageFormatError or BagError where it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise SapnetError(f"{path} does not exist; give an image, a folder of images, a video or a recording")
    if path.is_dir():
        return _open_bag(path) if _holds_bag(path) else _open_folder(path)
    if path.suffix.lower() in BAG_SUFFIXES:
        return _open_bag(path)
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


def _holds_bag(path: Path) -> bool:
    """Whether a folder is a rosbag2 recording, perhaps an unfinished one."""
    return (path / "metadata.yaml").is_file() or any(path.glob("*.mcap")) or any(path.glob("*.db3"))


def _open_bag(path: Path) -> FrameSource:
    from sapnet.bags.cameras import find_cameras
    from sapnet.bags.open import open_recording

    with open_recording(path) as bag:
        cameras = find_cameras(bag)
        if not cameras:
            seen = ", ".join(sorted(f"{topic.name} ({topic.type})" for topic in bag.topics))
            raise BagError(f"{path} has no topic with colour images; it holds {seen or 'nothing'}")
        topic = cameras[0].topic
        seconds = (bag.end_ns - 1 - bag.start_ns) / 1e9
    fps = (topic.count - 1) / seconds if topic.count > 1 and seconds > 0 else None
    return FrameSource(path, fps, topic.count, partial(_bag_frames, path, topic))


def _bag_frames(path: Path, topic: Topic) -> Iterator[tuple[str, Frame]]:
    from sapnet.bags.frames import decode
    from sapnet.bags.open import open_recording

    with open_recording(path) as bag:
        for index, recorded in enumerate(bag.messages([topic])):
            yield f"{index:06d}", decode(recorded, None).decoded.bgr
        if bag.notes:
            raise BagError(f"{path} was read as far as it goes: {'; '.join(bag.notes)}")
