"""Whether two messages say the same: images by their pixels, all others by their fields."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.bags.matching import Message, Pair, Side, digest_of
from sapnet.bags.types import COMPRESSED_IMAGE, IMAGE, decode_fields, deserialize
from sapnet.errors import ImageFormatError
from sapnet.images.messages import Decoded, image_size

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
# Whose samples are the decoded ones; of the others decoding rounds or mixes them.
_EXACT = ("bgr8", "rgb8", "bgra8", "rgba8", "mono8", "8UC1", "8UC3", "8UC4")

Pixels = NDArray[Any]


class PixelDifference(NamedTuple):
    """Two frames of one size, decoded. largest: of all samples, 0 to 255. differing: pixels that are not equal.

    psnr: in dB over all samples; infinite where they are equal.
    """

    largest: int
    differing: int
    pixels: int
    psnr: float


class Likeness(NamedTuple):
    """reason: what differs, in a word or two; empty where nothing does. pixels: None where none were compared."""

    reason: str = ""
    pixels: PixelDifference | None = None


def compare_pair(pair: Pair, sides: tuple[Side, Side], tolerance: int) -> Likeness:
    """tolerance: the largest difference of a sample, 0 to 255, that two equal images may have."""
    a, b = pair
    if a.topic.type in IMAGE_TYPES and b.topic.type in IMAGE_TYPES and a.stamp is not None and b.stamp is not None:
        return _compare_images(pair, sides, tolerance)
    if a.topic.type != b.topic.type:
        return Likeness("types")
    return Likeness("" if _equal_fields(pair, sides) else "content")


def compare_frames(a: Pixels, b: Pixels) -> PixelDifference:
    """Two uint8 (H, W, 3) or (H, W) of one shape."""
    difference = cv2.absdiff(a, b)
    height, width = difference.shape[:2]
    largest = int(difference.max())
    if not largest:
        return PixelDifference(0, 0, height * width, math.inf)
    worst: Pixels = difference
    if difference.ndim == 3:
        blue, green, red = cv2.split(difference)
        worst = cv2.max(cv2.max(blue, green), red)
    mean_square = cv2.norm(difference, cv2.NORM_L2SQR) / difference.size
    return PixelDifference(largest, cv2.countNonZero(worst), height * width, 10 * math.log10(255**2 / mean_square))


def _equal_fields(pair: Pair, sides: tuple[Side, Side]) -> bool:
    a, b = pair
    if a.data is not None and a.data == b.data:
        return True
    return digest_of(a, sides[0].definitions) == digest_of(b, sides[1].definitions)


def _compare_images(pair: Pair, sides: tuple[Side, Side], tolerance: int) -> Likeness:
    a, b = pair
    try:
        messages = _image(a), _image(b)
        if a.data == b.data and a.topic.type == b.topic.type:
            height, width = image_size(messages[0], a.topic.type == COMPRESSED_IMAGE)
            return Likeness("", PixelDifference(0, 0, height * width, math.inf))
        decoded = decode_fields(messages[0], a.topic.type), decode_fields(messages[1], b.topic.type)
    except (ImageFormatError, ValueError):
        # Broken, or of an encoding that is not for looking at, such as depth.
        same = a.topic.type == b.topic.type and _equal_fields(pair, sides)
        return Likeness("" if same else "content")
    return _compare_decoded(messages, decoded, tolerance)


def _compare_decoded(messages: tuple[Any, Any], decoded: tuple[Decoded, Decoded], tolerance: int) -> Likeness:
    a, b = decoded
    if a.bgr.shape != b.bgr.shape:
        return Likeness("size")
    pixels = compare_frames(a.bgr, b.bgr)
    if a.alpha is not None and b.alpha is not None:
        alpha = compare_frames(a.alpha, b.alpha)
        pixels = pixels._replace(largest=max(pixels.largest, alpha.largest))
    if messages[0].header.frame_id != messages[1].header.frame_id:
        return Likeness("frame_id", pixels)
    if pixels.largest > tolerance:
        return Likeness("pixels", pixels)
    if not tolerance and a.encoding == b.encoding and a.encoding not in _EXACT and not _equal_samples(messages):
        return Likeness("samples", pixels)
    return Likeness("", pixels)


def _equal_samples(messages: tuple[Any, Any]) -> bool:
    """Of two messages of one encoding, as they are stored; of compressed ones the pixels have been compared."""
    a, b = messages
    if not (hasattr(a, "step") and hasattr(b, "step")) or (a.step, a.is_bigendian) != (b.step, b.is_bigendian):
        return True
    return bool(np.array_equal(a.data, b.data))


def _image(message: Message) -> Any:
    assert message.data is not None  # what has a stamp is kept whole
    return deserialize(message.data, message.topic.type)
