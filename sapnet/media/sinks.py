"""Images and videos as files that appear whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.errors import SapnetError
from sapnet.files import replacing

JPEG_QUALITY = 95
MASK_CODEC = "FFV1"
_CODECS = {".avi": "MJPG", ".webm": "VP80", ".wmv": "WMV2", ".mpg": "MPG2", ".mpeg": "MPG2"}
_DEFAULT_CODEC = "mp4v"

Pixels = NDArray[np.uint8]

log = logging.getLogger(__name__)


def write_image(path: Path, image: Pixels) -> None:
    """Write uint8 (H, W, 3) BGR or (H, W) gray in the format of ``path``'s suffix. Raises SapnetError."""
    data = _encode(path.suffix.lower(), image)
    if data is None:
        height, width = image.shape[:2]
        raise SapnetError(f"{path}: OpenCV cannot write {height}x{width} as {path.suffix}; name the output .png")
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _encode(suffix: str, image: Pixels) -> bytes | None:
    if suffix == ".pgm" and image.ndim == 3:  # which holds gray alone
        image = cast(Pixels, cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    try:
        encoded, data = cv2.imencode(suffix, image, options)
    except cv2.error:
        return None
    return data.tobytes() if encoded else None


@contextmanager
def open_video(path: Path, fps: float, lossless: bool = False) -> Iterator[VideoFile]:
    """A video to write to, which is at ``path`` once the ``with`` block has ended well. Raises SapnetError.

    fps: frames per second. lossless: for masks, in .mkv or .avi; else the codec goes by the suffix.
    """
    codec = MASK_CODEC if lossless else _CODECS.get(path.suffix.lower(), _DEFAULT_CODEC)
    with replacing(path) as temporary:
        video = VideoFile(temporary, codec, fps)
        try:
            yield video
        finally:
            video.close()
        if not video.is_whole():
            raise SapnetError(f"{path} could not be written to its end; check the space on its disk")


class VideoFile:
    """Frames of one size in a video file."""

    def __init__(self, path: Path, codec: str, fps: float) -> None:
        self._path = path
        self._codec = codec
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def write(self, frame: Pixels) -> None:
        """Append uint8 (H, W, 3) BGR, or (H, W) gray. Raises SapnetError."""
        if self._writer is None:
            self._writer = self._open(frame)
            self._shape = frame.shape
        elif frame.shape != self._shape:
            raise SapnetError(f"the video's frames change from {_size(self._shape)} to {_size(frame.shape)}; split it")
        self._writer.write(frame)
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def is_whole(self) -> bool:
        """Whether the closed file holds its last frame; OpenCV does not say where writing fails, as on a full disk."""
        capture = cv2.VideoCapture(str(self._path))
        try:
            counted = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
            return counted and capture.set(cv2.CAP_PROP_POS_FRAMES, self._count - 1) and capture.grab()
        finally:
            capture.release()

    def _open(self, frame: Pixels) -> cv2.VideoWriter:
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            log.warning("videos have even sides: the last row or column of %s is left out", _size(frame.shape))
        fourcc = cv2.VideoWriter.fourcc(*self._codec)
        writer = cv2.VideoWriter(str(self._path), fourcc, self._fps, (width, height), frame.ndim == 3)
        if not writer.isOpened():
            raise SapnetError(f"this OpenCV cannot write {self._path.suffix} videos; name the output .mp4")
        return writer


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
