"""The file formats that are read and written, by suffix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# Pillow's names of the picture formats.
PICTURE_FORMATS: Mapping[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
# FFmpeg's names of the container and of the video encoder.
VIDEO_FORMATS: Mapping[str, tuple[str, str]] = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
    ".avi": ("avi", "mjpeg"),
    ".mpg": ("mpeg", "mpeg2video"),
    ".mpeg": ("mpeg", "mpeg2video"),
    ".wmv": ("asf", "wmv2"),
}

# H.264's constant rate factor: hardly distinguishable from the input.
DEFAULT_CRF = 18
# Of all pictures in a file, and of each frame of a video: a small file can unpack to gigabytes. Pillow's own limit.
MAX_PIXELS = 178_956_970


def is_image(path: Path) -> bool:
    """Whether a file is a picture by its name."""
    return path.suffix.lower() in PICTURE_FORMATS


def is_video(path: Path) -> bool:
    """Whether a file is a video by its name."""
    return path.suffix.lower() in VIDEO_FORMATS
