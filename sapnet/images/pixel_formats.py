"""How the pixels of each sensor_msgs/Image encoding lie in memory, and their way to uint8 BGR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.images.frame import Frame

Pixels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Raster:
    """The bytes of an image, uint8 (N,), and where its rows start: every ``step`` bytes.

    bits: of a 16-bit sample, those that are used; 0: all.
    """

    data: Frame
    height: int
    width: int
    step: int
    big_endian: bool = False
    bits: int = 0

    def rows(self, height: int, pixels: tuple[int, ...], dtype: str = "u1", start: int = 0, step: int = 0) -> Pixels:
        """A view (height, *pixels) of the rows from byte ``start`` on, without the bytes that pad them."""
        step = step or self.step
        row_bytes = math.prod(pixels) * np.dtype(dtype).itemsize
        padded = self.data[start : start + height * step].reshape(height, step)
        return padded[:, :row_bytes].view(dtype).reshape(height, *pixels)


@dataclass(frozen=True)
class Packed:
    """One plane of interleaved samples.

    code: OpenCV's conversion to BGR; None where the samples are BGR. multiple_of: what height and width must be
    multiples of. smallest: the smallest side that the conversion is defined for.
    """

    samples: int
    code: int | None
    bits: int = 8
    alpha: bool = False
    multiple_of: tuple[int, int] = (1, 1)
    smallest: int = 1

    def row_bytes(self, width: int) -> int:
        """Of a row of the first plane; ``step`` cannot be less."""
        return width * self.samples * self.bits // 8

    def total_bytes(self, height: int, step: int) -> int:
        """Of the whole image with rows ``step`` bytes apart."""
        return step * height

    def convert(self, raster: Raster) -> tuple[Frame, Frame | None]:
        """BGR uint8 (H, W, 3), contiguous, and alpha uint8 (H, W) where there is one."""
        dtype = f"{'>' if raster.big_endian else '<'}u{self.bits // 8}"
        shape = (raster.width,) if self.samples == 1 else (raster.width, self.samples)
        pixels = raster.rows(raster.height, shape, dtype)
        alpha: Pixels | None = cv2.extractChannel(pixels, 3) if self.alpha else None
        return to_bgr(to_8_bit(pixels, raster.bits), self.code), alpha


@dataclass(frozen=True)
class SemiPlanar:
    """A luma plane, then one of interleaved chroma pairs, both with the padding that ``step`` implies.

    subsampling: luma samples per chroma pair, along rows and along columns.
    code: OpenCV's conversion to BGR; None for full chroma, which OpenCV has no code for.
    """

    subsampling: int
    code: int | None
    smallest: int = 1

    @property
    def multiple_of(self) -> tuple[int, int]:
        return self.subsampling, self.subsampling

    def row_bytes(self, width: int) -> int:
        return width

    def total_bytes(self, height: int, step: int) -> int:
        return step * height + self._chroma_step(step) * (height // self.subsampling)

    def convert(self, raster: Raster) -> tuple[Frame, Frame | None]:
        height, width = raster.height, raster.width
        pairs = (width // self.subsampling, 2)
        luma = raster.rows(height, (width,))
        chroma = raster.rows(
            height // self.subsampling, pairs, start=raster.step * height, step=self._chroma_step(raster.step)
        )
        if self.code is None:
            return _yuv_444_to_bgr(luma, chroma), None
        bgr: Pixels = cv2.cvtColorTwoPlane(luma, chroma, self.code)
        return bgr, None

    def _chroma_step(self, step: int) -> int:
        return step * 2 // self.subsampling


PixelFormat: TypeAlias = Packed | SemiPlanar

# BT.601, limited range, with the digits that OpenCV's 4:2:0 and 4:2:2 conversions use.
_BLUE, _GREEN, _RED = (1.164, 2.018, 0.0), (1.164, -0.391, -0.813), (1.164, 0.0, 1.596)
_YUV_TO_BGR = np.array([(*row, -16 * row[0] - 128 * (row[1] + row[2])) for row in (_BLUE, _GREEN, _RED)], np.float32)


def _yuv_444_to_bgr(luma: Frame, chroma: Frame) -> Frame:
    # OpenCV's own YUV conversions take luma below black for black.
    yuv = cv2.merge([np.maximum(luma, 16), chroma])
    bgr: Pixels = cv2.transform(yuv, _YUV_TO_BGR)
    return bgr


def to_8_bit(pixels: Pixels, bits: int = 0) -> Pixels:
    """uint8 as it is; uint16 of either byte order scaled and rounded, so that white stays white.

    bits: those that are used, 0: all; values above their white become white.
    """
    if pixels.dtype.itemsize == 1:
        return pixels
    scaled: Pixels = cv2.convertScaleAbs(np.require(pixels, np.uint16, "A"), alpha=255 / white(bits))
    return scaled


def white(bits: int) -> int:
    """The largest value of a sample of which ``bits`` are used; 0: all 16."""
    return int(2 ** (bits or 16) - 1)


def to_bgr(pixels: Frame, code: int | None) -> Frame:
    """uint8 pixels by one of OpenCV's conversions as contiguous BGR (H, W, 3); no copy where they are that already."""
    bgr: Pixels = pixels if code is None else cv2.cvtColor(pixels, code)
    return np.ascontiguousarray(bgr)


# OpenCV names a Bayer pattern by its second row and column, ROS by its first: rggb is OpenCV's BG.
_BAYER_CODES = {
    "rggb": cv2.COLOR_BayerBG2BGR,
    "bggr": cv2.COLOR_BayerRG2BGR,
    "gbrg": cv2.COLOR_BayerGR2BGR,
    "grbg": cv2.COLOR_BayerGB2BGR,
}
# OpenCV leaves images of fewer than three rows or columns black.
BAYER = {
    f"bayer_{pattern}{bits}": Packed(1, code, bits=bits, smallest=3)
    for pattern, code in _BAYER_CODES.items()
    for bits in (8, 16)
}
_UYVY = Packed(2, cv2.COLOR_YUV2BGR_UYVY, multiple_of=(1, 2))
_YUYV = Packed(2, cv2.COLOR_YUV2BGR_YUY2, multiple_of=(1, 2))

PIXEL_FORMATS: Mapping[str, PixelFormat] = MappingProxyType(
    {
        "rgb8": Packed(3, cv2.COLOR_RGB2BGR),
        "bgr8": Packed(3, None),
        "rgba8": Packed(4, cv2.COLOR_RGBA2BGR, alpha=True),
        "bgra8": Packed(4, cv2.COLOR_BGRA2BGR, alpha=True),
        "rgb16": Packed(3, cv2.COLOR_RGB2BGR, bits=16),
        "bgr16": Packed(3, None, bits=16),
        "rgba16": Packed(4, cv2.COLOR_RGBA2BGR, bits=16),
        "bgra16": Packed(4, cv2.COLOR_BGRA2BGR, bits=16),
        "mono8": Packed(1, cv2.COLOR_GRAY2BGR),
        "mono16": Packed(1, cv2.COLOR_GRAY2BGR, bits=16),
        **BAYER,
        "uyvy": _UYVY,
        "yuv422": _UYVY,  # the deprecated name
        "yuyv": _YUYV,
        "yuv422_yuy2": _YUYV,  # the deprecated name
        "nv12": SemiPlanar(2, cv2.COLOR_YUV2BGR_NV12),
        "nv21": SemiPlanar(2, cv2.COLOR_YUV2BGR_NV21),
        "nv24": SemiPlanar(1, None),
        "8UC1": Packed(1, cv2.COLOR_GRAY2BGR),
        "8UC3": Packed(3, None),
        "8UC4": Packed(4, cv2.COLOR_BGRA2BGR, alpha=True),
    }
)
