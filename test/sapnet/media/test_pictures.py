"""Pictures keep depth, alpha, colour profile, orientation and all their frames; what is not read is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from picture_builders import flat, gradients
from sapnet.errors import ImageFormatError
from sapnet.images.frame import Frame
from sapnet.media import pictures
from sapnet.media.pictures import PictureFile, read_image, read_pictures, write_image, write_pictures

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SUFFIXES = [".png", ".jpg", ".bmp", ".tif", ".webp", ".gif", ".ppm", ".pgm"]


def smooth() -> Frame:
    return gradients(1, 40)[0]


def copied(source: Path, output: Path) -> PictureFile:
    """The file after a way through our reader and writer."""
    write_pictures(output, read_pictures(source))
    return read_pictures(output)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".jpeg", ".tiff", ".PNG"])
def test_a_picture_comes_back_in_colour_and_in_gray(tmp_path: Path, make_frame: Any, suffix: str) -> None:
    path, gray = tmp_path / f"a{suffix}", np.full((16, 20), 77, np.uint8)
    if suffix in (".jpg", ".jpeg", ".webp", ".gif"):
        write_image(path, smooth())
        assert np.abs(read_image(path).astype(int) - smooth()).mean() < 6
    elif suffix != ".pgm":
        write_image(path, make_frame(17, 23))
        np.testing.assert_array_equal(read_image(path), make_frame(17, 23))
    write_image(path, gray)
    [picture] = copied(path, tmp_path / f"b{suffix}").pictures
    assert picture.pixels.ndim == 2 or suffix in (".bmp", ".webp", ".gif")
    np.testing.assert_array_equal(picture.frame, np.full((16, 20, 3), 77))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_profile_alpha_and_exif_are_kept_and_the_picture_turned_upright(tmp_path: Path, suffix: str) -> None:
    exif, alpha = Image.Exif(), np.tile(np.arange(1, 256, 4, np.uint8), (40, 1))
    exif[0x0112], exif[0x010F] = 6, "A camera"  # to be turned by 90 degrees clockwise
    pixels = smooth() if suffix == ".jpg" else np.dstack([smooth(), alpha])
    notes = PngImagePlugin.PngInfo()
    notes.add_text("duration", "a walk")
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=exif, icc_profile=PROFILE, quality=95, pnginfo=notes)
    [picture] = copied(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}").pictures
    if suffix != ".jpg":
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, np.rot90(alpha, -1))
    with Image.open(tmp_path / f"b{suffix}") as image:
        assert image.info["icc_profile"] == PROFILE
        assert suffix == ".tif" or dict(image.getexif()) == {0x010F: "A camera"}
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - np.rot90(smooth(), -1)).mean() < 3


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str, channels: int, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), np.uint16).squeeze()
    (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    file = read_pictures(tmp_path / f"a{suffix}")
    write_pictures(tmp_path / f"b{suffix}", PictureFile(file.pictures, {"icc_profile": PROFILE}))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"b{suffix}"), cv2.IMREAD_UNCHANGED), pixels)
    if suffix == ".png":
        assert read_pictures(tmp_path / "b.png").info["icc_profile"] == PROFILE
    else:
        assert "b.tif: the colour profile is left out, as the picture has 16 bits" in caplog.text


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", np.full((20, 30, 4), 0x8080, np.uint16))[1].tobytes())
    [picture] = copied(tmp_path / "a.png", tmp_path / "b.jpg").pictures
    assert "b.jpg: 16 bits a channel are cut to 8" in caplog.text
    assert "b.jpg: alpha is left out, .jpg has none" in caplog.text
    np.testing.assert_array_equal(picture.frame, np.full((20, 30, 3), 0x80))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".tif"])
def test_all_pictures_of_a_file_are_kept(tmp_path: Path, suffix: str) -> None:
    levels = [flat(level, 20, 30) for level in (40, 90, 200)]
    first, *rest = [Image.fromarray(level) for level in levels]
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=rest, duration=[100, 200, 300], loop=0)
    file = copied(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    assert [round(picture.frame.mean()) for picture in file.pictures] == pytest.approx([40, 90, 200], abs=1)
    if suffix != ".tif":
        assert (file.info["duration"], file.info["loop"]) == ([100, 200, 300], 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int16])
def test_other_samples_are_refused(tmp_path: Path, channels: int, dtype: type) -> None:
    pixels = np.zeros((20, 30, channels), dtype).squeeze()
    (tmp_path / "a.tif").write_bytes(cv2.imencode(".tif", pixels)[1].tobytes())
    with pytest.raises(ImageFormatError, match=r"not supported|not of 8 or 16 bits"):
        read_pictures(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(cv2.imencodemulti(".tif", [np.full((20, 30), 900, np.uint16)] * 2)[1].tobytes())
    with pytest.raises(ImageFormatError, match="holds 2 pictures of 16 bits; split it"):
        read_pictures(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_too_many_pixels_are_refused_before_any_is_decoded(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / f"a{suffix}", smooth())
    monkeypatch.setattr(pictures, "MAX_PIXELS", 40 * 64 - 1)
    for place, name in ((ImageFile.ImageFile, "load"), (cv2, "imdecode")):
        monkeypatch.setattr(place, name, lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageFormatError, match=r"unpacks to 1 x 40x64 pixels; at most 2559") as caught:
        read_pictures(tmp_path / f"a{suffix}")
    assert caught.value.kind == "limit"


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [*((suffix, np.uint8) for suffix in SUFFIXES), (".png", np.uint16), (".tif", np.uint16), (".ppm", np.uint16)],
)
def test_damaged_files_raise_nothing_else(
    tmp_path: Path, suffix: str, dtype: type, capfd: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(1)
    write_image(tmp_path / f"a{suffix}", smooth().astype(dtype) * (np.iinfo(dtype).max // 255))
    whole = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageFormatError, match="is not a picture that can be read"):
        read_pictures(tmp_path / f"b{suffix}")
    assert capfd.readouterr().err == ""
    refused = 0
    for trial in range(120):
        data = bytearray(whole[: random.integers(len(whole))] if trial % 2 else whole)
        for at in random.integers(0, max(1, min(len(data), 200)), 3 if data else 0):
            data[at] = random.integers(256)
        (tmp_path / f"b{suffix}").write_bytes(data)
        try:
            read_pictures(tmp_path / f"b{suffix}")
        except ImageFormatError:
            refused += 1
    assert refused > 30
