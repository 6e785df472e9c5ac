"""CompressedImage: JPEG and PNG, whole and damaged."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from message_builders import compressed, jpeg, packed, png, random_pixels, refused, smooth_bgr
from sapnet.images.messages import decode_compressed, decode_image, image_size


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif(orientation):
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 3, 1, orientation) + bytes(4)
    return b"Exif\0\0" + tiff


def with_segment(content, marker, body):
    """A JPEG with one more segment right after its start."""
    return content[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + content[2:]


def with_jpeg_size(content, height, width):
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def with_png_size(content, height, width):
    return content[:8] + png_chunk(b"IHDR", struct.pack(">II", width, height) + content[24:29]) + content[33:]


@pytest.mark.parametrize("parameters", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_jpeg(parameters):
    bgr = smooth_bgr()
    decoded = decode_compressed(compressed(jpeg(bgr, cv2.IMWRITE_JPEG_QUALITY, 98, *parameters)))
    assert cv2.PSNR(decoded.bgr, bgr) > 40
    assert (decoded.encoding, decoded.alpha) == ("bgr8", None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_is_exact(channels, dtype):
    pixels = random_pixels(5, 9, channels, dtype=dtype)
    decoded = decode_compressed(compressed(png(pixels), "png"))
    expected = pixels if dtype == np.uint8 else np.round(pixels / 257).astype(np.uint8)
    np.testing.assert_array_equal(decoded.bgr, np.broadcast_to(expected[..., :3], (5, 9, 3)))
    assert decoded.bgr.flags.c_contiguous
    assert decoded.encoding == ("mono8" if channels == 1 else "bgr8")
    if channels == 4:
        np.testing.assert_array_equal(decoded.alpha, expected[..., 3])


def test_an_exif_orientation_is_not_applied():
    bgr = smooth_bgr()
    content = jpeg(bgr)
    expected = decode_compressed(compressed(content)).bgr
    content = with_segment(content, 0xE1, exif(6))
    rotated = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert rotated.shape[:2] != expected.shape[:2]  # OpenCV does see the orientation
    np.testing.assert_array_equal(decode_compressed(compressed(content)).bgr, expected)
    content = png(bgr)
    content = content[:33] + png_chunk(b"eXIf", exif(6)[6:]) + content[33:]
    np.testing.assert_array_equal(decode_compressed(compressed(content, "png")).bgr, bgr)


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("bgr8; jpeg compressed bgr8", "bgr8"),
        ("rgb8; jpeg compressed bgr8", "rgb8"),
        ("yuv422_yuy2; jpeg compressed bgr8", "yuv422_yuy2"),
        ("rgb8; png compressed ", "rgb8"),
        ("jpeg", "bgr8"),
        ("", "bgr8"),
        ("nonsense", "bgr8"),
    ],
)
def test_the_format_names_the_encoding_and_the_content_decides_the_codec(declared, encoding):
    bgr = smooth_bgr()
    for content in (jpeg(bgr), png(bgr)):
        decoded = decode_compressed(compressed(content, declared))
        assert decoded.encoding == encoding
        assert cv2.PSNR(decoded.bgr, bgr) > 35


def test_a_compressed_mosaic_is_still_a_mosaic():
    mosaic = random_pixels(12, 16)
    expected = decode_image(packed(mosaic, "bayer_grbg8")).bgr
    decoded = decode_compressed(compressed(png(mosaic), "bayer_grbg8; png compressed "))
    np.testing.assert_array_equal(decoded.bgr, expected)
    assert decoded.encoding == "bayer_grbg8"
    gray = decode_compressed(compressed(png(mosaic), "bayer_grbg8; png compressed mono8"))
    np.testing.assert_array_equal(gray.bgr[..., 0], mosaic)


@pytest.mark.parametrize(
    ("content", "declared", "kind", "text"),
    [
        (b"", "jpeg", "decode", "0 bytes, the first of them missing"),
        (b"", "", "encoding", "not supported"),
        (b"hello, world", "rgb8; jpeg compressed bgr8", "decode", "68 65 6c 6c 6f"),
        (b"RIFF....WEBPVP8 ", "webp", "encoding", "format 'webp' is not supported; supported are JPEG and PNG"),
        (b"\0\0\0\x01\x67" + bytes(60), "h264", "encoding", "not supported"),
        (bytes(12) + b"\x89PNG\r\n\x1a\n", "16UC1; compressedDepth png", "encoding", "depth image"),
        (b"\xff\xd8\xff", "jpeg", "decode", "ends before its frame header"),
        (b"\xff\xd8\xff\xd9", "jpeg", "decode", "frame header is missing"),
        (b"\xff\xd8\xff\xda" + bytes(20), "jpeg", "decode", "frame header is missing"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "jpeg", "decode", "ends before its frame header"),
        (b"\x89PNG\r\n\x1a\n", "png", "decode", "ends before its IEND chunk"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IEND", b""), "png", "decode", "does not begin with its header, IHDR"),
    ],
)
def test_what_is_neither_jpeg_nor_png(content, declared, kind, text):
    for decode in (decode_compressed, lambda msg: image_size(msg, compressed=True)):
        with refused(kind, text):
            decode(compressed(content, declared))


@pytest.fixture
def undecoded(monkeypatch):
    """Fails the test if anything is decoded."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded although its content forbids it"))


@pytest.mark.parametrize("encode", [jpeg, png])
def test_truncated_and_altered_content_is_broken_wherever_it_is_and_not_decoded(undecoded, encode):
    content = encode(smooth_bgr())
    start = 3 if encode is jpeg else 8
    for end in [*range(start, len(content), 37), len(content) - 1]:
        with refused("decode", "broken"):
            decode_compressed(compressed(content[:end]))
    if encode is png:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :]
        with refused("decode", "checksum of its chunk b'IDAT' is wrong"):
            decode_compressed(compressed(flipped))


def test_the_end_of_a_thumbnail_is_not_the_end():
    content = with_segment(jpeg(smooth_bgr()), 0xE1, b"Exif\0\0" + jpeg(smooth_bgr(8, 8)))
    assert image_size(compressed(content), compressed=True) == (24, 32)
    assert decode_compressed(compressed(content)).bgr.shape == (24, 32, 3)
    with refused("decode", "ends before its end marker"):
        decode_compressed(compressed(content[:-40]))


@pytest.mark.parametrize(("encode", "resize"), [(jpeg, with_jpeg_size), (png, with_png_size)])
@pytest.mark.parametrize(
    ("size", "kind"), [((60000, 60000), "limit"), ((24, 33), "limit"), ((0, 32), "size"), ((24, 0), "size")]
)
def test_the_size_is_read_from_the_header_before_decoding(undecoded, encode, resize, size, kind):
    content = resize(encode(smooth_bgr()), *size)
    with refused(kind, f"{size[1]}x{size[0]}"):
        decode_compressed(compressed(content), max_pixels=24 * 32)


def test_a_long_run_of_fill_bytes_is_searched_in_linear_time():
    with refused("decode", "frame header"):
        image_size(compressed(b"\xff\xd8\xff" + b"\xff" * 4_000_000), compressed=True)
