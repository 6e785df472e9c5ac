"""Pictures through Pillow: upright, with colour profile, alpha, depth and all frames of an animation."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from sapnet.errors import ImageFormatError
from sapnet.files import replacing
from sapnet.images.codecs import JPEG_QUALITY
from sapnet.images.frame import Frame
from sapnet.images.pixel_formats import Pixels, to_8_bit
from sapnet.media.formats import MAX_PIXELS, PICTURE_FORMATS

_READ_FORMATS = sorted(set(PICTURE_FORMATS.values()))
_WITH_ALPHA = _WITH_SEVERAL = ("PNG", "WEBP", "GIF", "TIFF")
_DEEP = ("PNG", "TIFF", "PPM")
# How Pillow writes a format. Every picture of an animation is whole: nothing of the one before shows through.
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "PNG": {"disposal": 0, "blend": 0},
    "GIF": {"disposal": 2},
    "TIFF": {"compression": "tiff_lzw"},
}
_OTHER_SAMPLES = ("I", "F")  # Pillow's modes of signed, 32-bit and floating-point samples
_AFTER_IHDR = 33  # bytes of a PNG: its signature and its first chunk
# What Pillow raises at damaged files, beside OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)

# We have a limit of our own, which says what to do; Pillow's prints a warning from half of it on.
Image.MAX_IMAGE_PIXELS = None
# OpenCV writes several lines about each damaged file; what is wrong is in our error.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a file, upright.

    pixels: uint8 or uint16, (H, W) gray or (H, W, 3) BGR. alpha: uint8 or uint16 (H, W), None if opaque.
    """

    pixels: Pixels
    alpha: Pixels | None = None

    @property
    def frame(self) -> Frame:
        """uint8 (H, W, 3) BGR."""
        eight = to_8_bit(self.pixels)
        return eight if eight.ndim == 3 else np.asarray(cv2.cvtColor(eight, cv2.COLOR_GRAY2BGR), np.uint8)

    def with_frame(self, frame: Frame) -> Picture:
        """The picture with a derained frame; at 16 bits, what was taken out of the frame is taken out of its pixels."""
        gray = self.pixels.ndim == 2
        if self.pixels.dtype == np.uint8:
            return replace(self, pixels=cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if gray else frame)
        change = (frame.astype(np.int32) - self.frame) * 257
        change = change.mean(axis=2).round().astype(np.int32) if gray else change
        return replace(self, pixels=np.clip(self.pixels + change, 0, 65535).astype(np.uint16))


@dataclass(frozen=True, eq=False)
class PictureFile:
    """What a picture file holds.

    info: ``icc_profile`` and ``exif``, and of an animation ``duration``, milliseconds of each picture, and ``loop``,
    by the names that Pillow saves them by.
    """

    pictures: list[Picture]
    info: dict[str, Any] = field(default_factory=dict)


def read_image(path: Path) -> Frame:
    """The first picture in a file, uint8 (H, W, 3) BGR, upright; alpha is dropped. Raises ImageFormatError, OSError."""
    return read_pictures(path).pictures[0].frame


def read_pictures(path: Path) -> PictureFile:
    """All pictures in a file. Raises ImageFormatError, OSError."""
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is in our error
            return _decode_file(path, content)
    except _DAMAGE as err:
        # Without the text of this one, which names an object in memory.
        said = "" if isinstance(err, UnidentifiedImageError) else f" ({err})"
        raise ImageFormatError(
            f"{path} is not a picture that can be read; it may be damaged, or not of 8 or 16 bits{said}", "decode"
        ) from err


def write_image(path: Path, image: Frame, quality: int = JPEG_QUALITY) -> None:
    """Write uint8 (H, W, 3) BGR or (H, W) gray in the format of ``path``'s suffix. Raises SapnetError."""
    write_pictures(path, PictureFile([Picture(image)]), quality)


def write_pictures(path: Path, file: PictureFile, quality: int = JPEG_QUALITY) -> None:
    """Write pictures with their colour profile in the format of ``path``'s suffix.

    quality: of JPEG and WebP, 1 to 100. Logs what the format cannot hold.
    Raises ImageFormatError where it cannot hold the pictures, SapnetError where the file cannot be written.
    """
    suffix = path.suffix.lower()
    kind = PICTURE_FORMATS.get(suffix, "")
    first = file.pictures[0]
    if not kind or (len(file.pictures) > 1 and kind not in _WITH_SEVERAL):
        what = f"{len(file.pictures)} pictures" if kind else "pictures"
        raise ImageFormatError(f"{path}: {suffix} cannot hold {what}; name the output .png or .tif", "encoding")
    if any(picture.alpha is not None for picture in file.pictures) and kind not in _WITH_ALPHA:
        log.warning("%s: alpha is left out, %s has none", path, suffix)
    is_deep = first.pixels.dtype == np.uint16 and kind in _DEEP
    if first.pixels.dtype == np.uint16 and not is_deep:
        log.warning("%s: 16 bits a channel are cut to 8", path)
    if is_deep and kind == "TIFF" and "icc_profile" in file.info:
        log.warning("%s: the colour profile is left out, as the picture has 16 bits", path)
    try:
        content = _encode_deep(kind, suffix, file) if is_deep else _encode(kind, suffix, file, quality)
    except (OSError, ValueError, OverflowError, struct.error, cv2.error) as err:
        height, width = first.pixels.shape[:2]
        raise ImageFormatError(
            f"{path}: {height}x{width} cannot be written as {suffix} ({err}); name the output .png", "encoding"
        ) from err
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _decode_file(path: Path, content: bytes) -> PictureFile:
    image = Image.open(io.BytesIO(content), formats=_READ_FORMATS)
    count = getattr(image, "n_frames", 1)
    if image.width * image.height * count > MAX_PIXELS:
        raise ImageFormatError(
            f"{path} unpacks to {count} x {image.height}x{image.width} pixels; at most {MAX_PIXELS} are read; "
            "make it smaller, or a video of an animation",
            "limit",
        )
    if image.format == "MPO" and count > 1:  # a JPEG with more pictures behind the first: what phones write
        log.warning("%s: only its first picture is read, not the %d previews or views behind it", path, count - 1)
        count = 1
    is_deep = _is_deep(image, content)
    if is_deep and count > 1:
        raise ImageFormatError(f"{path} holds {count} pictures of 16 bits; split it into single ones", "encoding")
    if image.mode in _OTHER_SAMPLES and not is_deep:
        raise ImageFormatError(f"{path} has samples that are not supported; convert it to 8 or 16 bits", "encoding")
    info: dict[str, Any] = {}
    # A profile for other colours than those that are written would be wrong.
    if image.mode in ("L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B") and image.info.get("icc_profile"):
        info["icc_profile"] = image.info["icc_profile"]
    pictures, durations = [], []
    for index in range(count):
        image.seek(index)
        pictures.append(_decode_deep(content) if is_deep else _decode(image))
        durations.append(round(image.info.get("duration") or 0) if count > 1 else 0)  # else it may be a PNG's text
    if count > 1:
        info |= {"duration": durations, "loop": image.info.get("loop", 1)}
    # After the pictures: a PNG is read to its end for it.
    if image.format in ("JPEG", "MPO", "PNG", "WEBP") and (exif := image.getexif()):
        exif.pop(ExifTags.Base.Orientation, None)
        info["exif"] = exif.tobytes()
    return PictureFile(pictures, info)


def _decode(image: Image.Image) -> Picture:
    upright = ImageOps.exif_transpose(image)
    alpha = np.asarray(upright.convert("RGBA"))[..., 3] if upright.has_transparency_data else None
    if upright.mode in ("1", "L", "LA"):
        return Picture(np.array(upright.convert("L")), alpha)
    return Picture(np.ascontiguousarray(np.asarray(upright.convert("RGB"))[..., ::-1]), alpha)


def _is_deep(image: Image.Image, content: bytes) -> bool:
    """Whether samples have 16 bits, which Pillow cuts in colour: OpenCV reads those."""
    if image.format == "PNG":
        return content[24] == 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        return bool(bits == 16) and image.mode not in _OTHER_SAMPLES
    return image.format == "PPM"  # which has no metadata that OpenCV would lose


def _decode_deep(content: bytes) -> Picture:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("OpenCV cannot decode it")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return Picture(np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]))
    return Picture(pixels)


def _encode(kind: str, suffix: str, file: PictureFile, quality: int) -> bytes:
    first, *others = [_to_pillow(picture, kind, suffix) for picture in file.pictures]
    options = file.info | _OPTIONS.get(kind, {})
    if kind in ("JPEG", "WEBP"):
        options["quality"] = quality
    if kind == "TIFF":  # libtiff cannot write the tables that EXIF refers to
        options.pop("exif", None)
    if others:
        options |= {"save_all": True, "append_images": others}
    content = io.BytesIO()
    first.save(content, kind, **options)
    return content.getvalue()


def _to_pillow(picture: Picture, kind: str, suffix: str) -> Image.Image:
    pixels = to_8_bit(picture.pixels)
    image = Image.fromarray(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1]))
    if suffix == ".pgm":
        image = image.convert("L")
    if picture.alpha is not None and kind in _WITH_ALPHA:
        image.putalpha(Image.fromarray(to_8_bit(picture.alpha)))
    return image


def _encode_deep(kind: str, suffix: str, file: PictureFile) -> bytes:
    """A picture of 16 bits, which Pillow cannot write in colour."""
    [picture] = file.pictures
    pixels = picture.pixels
    if picture.alpha is not None and kind != "PPM":
        color = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else pixels
        pixels = np.dstack([color, picture.alpha])
    if suffix == ".pgm" and pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    encoded = cv2.imencode(suffix, pixels)[1].tobytes()
    if kind == "PNG" and (profile := file.info.get("icc_profile")):
        chunk = io.BytesIO()
        PngImagePlugin.putchunk(chunk, b"iCCP", b"ICC profile\0\0", zlib.compress(profile))
        encoded = encoded[:_AFTER_IHDR] + chunk.getvalue() + encoded[_AFTER_IHDR:]
    return encoded
