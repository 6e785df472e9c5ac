"""Videos keep their timestamps, shape, colour, sound, subtitles and metadata; what is damaged is said."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from picture_builders import flat, gradients
from sapnet.errors import ImageFormatError, SapnetError
from sapnet.media import formats, videos
from sapnet.media.videos import read_video, write_video

Frame = NDArray[np.uint8]
BT709, BT601, LIMITED, FULL = 1, 6, 1, 2


def make_video(
    path: Path,
    times: list[int],
    codec: str = "libx264",
    sound: str = "",
    rotation: int = 0,
    frames: list[Frame] | None = None,
    **context: Any,
) -> Path:
    """A video with frames at ``times`` (ms); sound of that codec for as long."""
    with path.open("wb") as file, av.open(file, "w", format=formats.VIDEO_FORMATS[path.suffix][0]) as container:
        container.metadata["title"] = "Drive in the rain"
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25 if path.suffix in (".avi", ".mpg") else 1000)
        for name, value in context.items():
            setattr(stream if name == "sample_aspect_ratio" else stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = container.add_stream(sound, rate=48000, bit_rate=128_000) if sound else None
        for at, pixels in zip(times, frames or gradients(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, "bgr24").reformat(
                format=stream.pix_fmt,
                dst_colorspace=context.get("colorspace"),
                dst_color_range=context.get("color_range"),
                interpolation=0x42002,
            )
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(Fraction(at, 1000) / frame.time_base)
            container.mux(stream.encode(frame))
        if audio:
            for index in range(0, times[-1] * 48, 1024):
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), "s16", "stereo")
                tone.sample_rate, tone.pts, tone.time_base = 48000, index, Fraction(1, 48000)
                container.mux(audio.encode(tone))
            container.mux(audio.encode(None))
        container.mux(stream.encode(None))
    return path


def convert(source: Path, output: Path, **options: Any) -> str:
    """Copies a video through our reader and writer; returns what the reader says of damage."""
    with read_video(source) as video, write_video(output, like=video, **options) as writer:
        for frame in video.frames(writer.copy):
            writer.write(frame.pixels, frame.pts, frame.duration)
        return video.damage


def times_of(path: Path) -> list[float]:
    """Of the frames, in seconds from the first one."""
    with read_video(path) as video:
        stamps = [float(frame.pts * video.time_base) for frame in video.frames()]
    return [stamp - stamps[0] for stamp in stamps]


def pixels_of(path: Path) -> NDArray[np.int64]:
    with read_video(path) as video:
        return np.stack([frame.pixels for frame in video.frames()]).astype(np.int64)


def packets_of(path: Path, kind: str) -> list[bytes]:
    with path.open("rb") as file, av.open(file) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        return [bytes(packet) for packet in container.demux(streams) if packet.size]


STEADY, VARIABLE = list(range(0, 1000, 40)), [0, 40, 80, 480, 500, 1500, 1540, 4000]  # ms
FORMATS = [
    (".mp4", "libx264", "aac"),
    (".mov", "libx264", "aac"),
    (".mkv", "libx264", "aac"),
    (".webm", "libvpx-vp9", "libopus"),
    (".wmv", "wmv2", "wmav2"),
    (".avi", "mjpeg", "mp2"),
    (".mpg", "mpeg2video", "mp2"),
]


@pytest.mark.parametrize(("suffix", "codec", "sound"), FORMATS)
def test_every_format_keeps_frames_times_and_sound(tmp_path: Path, suffix: str, codec: str, sound: str) -> None:
    times = STEADY if suffix in (".wmv", ".avi", ".mpg") else VARIABLE
    source = make_video(tmp_path / f"a{suffix}", times, codec, sound)
    assert convert(source, tmp_path / f"b{suffix}") == ""
    assert times_of(tmp_path / f"b{suffix}") == pytest.approx([at / 1000 for at in times], abs=0.002)
    assert np.abs(pixels_of(tmp_path / f"b{suffix}") - pixels_of(source)).mean() < 2.5
    assert packets_of(tmp_path / f"b{suffix}", "audio") == packets_of(source, "audio") != []


def test_a_fixed_rate_format_keeps_the_length_of_a_variable_one(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", [*range(0, 2000, 100), *range(2000, 4000, 40)])
    convert(source, tmp_path / "b.avi")
    assert times_of(tmp_path / "b.avi")[-1] == pytest.approx(3.96, abs=0.1)


@pytest.mark.parametrize(("colorspace", "color_range"), [(BT709, FULL), (BT601, LIMITED)])
def test_pixel_aspect_ratio_colour_and_metadata_are_kept(tmp_path: Path, colorspace: int, color_range: int) -> None:
    colour = {"colorspace": colorspace, "color_range": color_range, "color_primaries": 1, "color_trc": 1}
    red = [flat((30, 60, 200), 48, 64)] * 2
    source = make_video(tmp_path / "a.mp4", [0, 40], frames=red, sample_aspect_ratio=Fraction(4, 3), **colour)
    convert(source, tmp_path / "b.mp4")
    for path in (source, tmp_path / "b.mp4"):
        assert pixels_of(path).mean(axis=(0, 1, 2)) == pytest.approx([30, 60, 200], abs=2.5)
        with read_video(path) as video:
            list(video.frames())
            assert {name: int(getattr(video.stream.codec_context, name)) for name in colour} == colour
            assert video.stream.sample_aspect_ratio == Fraction(4, 3)
            assert video.container.metadata["title"] == "Drive in the rain"


def test_subtitles_and_chapters_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    srt = b"1\n00:00:00,500 --> 00:00:01,500\nRain ahead\n"
    plain = make_video(tmp_path / "plain.mkv", [40 * index for index in range(50)])
    with av.open(str(plain)) as video, av.open(io.BytesIO(srt), format="srt") as text, av.open(str(source), "w") as to:
        to.set_chapters([{"id": 1, "start": 1, "end": 2, "time_base": Fraction(1), "metadata": {"title": "Tunnel"}}])
        inputs = [(read, to.add_stream_from_template(read.streams[0])) for read in (video, text)]
        for read, stream in inputs:
            for packet in read.demux():
                if packet.dts is not None:
                    packet.stream = stream
                    to.mux_one(packet)
    assert convert(source, tmp_path / "b.mkv") == ""
    assert packets_of(tmp_path / "b.mkv", "subtitle") == packets_of(source, "subtitle") == [b"Rain ahead"]
    with av.open(str(tmp_path / "b.mkv")) as container:
        [chapter] = container.chapters()
        assert (chapter["start"] * chapter["time_base"], chapter["metadata"]) == (1, {"title": "Tunnel"})


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_videos_come_out_upright(tmp_path: Path, rotation: int) -> None:
    frame = gradients(1)[0]
    path = make_video(
        tmp_path / "a.mp4", [0, 40], rotation=rotation, frames=[frame] * 2, sample_aspect_ratio=Fraction(4, 3)
    )
    convert(path, tmp_path / "b.mp4")
    expected = np.rot90(frame, rotation // 90)
    assert np.abs(pixels_of(tmp_path / "b.mp4") - expected).mean() < 3
    with read_video(tmp_path / "b.mp4") as video:
        list(video.frames())
        assert video.stream.sample_aspect_ratio == (Fraction(4, 3) if rotation == 180 else Fraction(3, 4))


def test_streams_that_a_format_cannot_hold_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_video(tmp_path / "a.mkv", [0, 40, 80], sound="aac")
    convert(source, tmp_path / "b.webm")
    assert "b.webm leaves out streams of the input: audio aac" in caplog.text
    assert len(pixels_of(tmp_path / "b.webm")) == 3


def remuxed(source: Path, path: Path, start: int = 0, **options: str) -> Path:
    """A copy that is not encoded again, without the packets of the first ``start`` ms."""
    with av.open(str(source)) as read, av.open(str(path), "w", options=options) as write:
        copies = {stream.index: write.add_stream_from_template(stream, opaque=True) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                shift = round(Fraction(start, 1000) / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copies[packet.stream_index]
                write.mux_one(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_video_trimmed_without_encoding_is_whole(tmp_path: Path, suffix: str) -> None:
    source = make_video(tmp_path / "a.mp4", [40 * index for index in range(100)], sound="aac")
    cut = remuxed(source, tmp_path / "b.mp4", 1500)  # the muxer writes an edit list
    assert convert(cut, tmp_path / f"c{suffix}") == ""
    assert times_of(tmp_path / f"c{suffix}") == pytest.approx([0.04 * index for index in range(62)], abs=0.002)
    with read_video(tmp_path / f"c{suffix}") as video:
        assert next(video.frames()).pts * video.time_base < 0.1  # the sound before the cut is not there either


@pytest.mark.parametrize(
    ("suffix", "codec", "sound"), [FORMATS[0], FORMATS[2], (".avi", "mjpeg", ""), (".avi", "mjpeg", "mp2")]
)
def test_a_video_that_is_cut_off_says_so(tmp_path: Path, suffix: str, codec: str, sound: str, make_frame: Any) -> None:
    noise = [make_frame(48, 64, seed) for seed in range(100)]
    source = make_video(tmp_path / f"a{suffix}", [40 * index for index in range(100)], codec, sound, frames=noise)
    if suffix == ".mp4":
        # The index at the start, so that the file opens where its end is missing.
        source = remuxed(source, tmp_path / "first.mp4", movflags="faststart")
    os.truncate(source, source.stat().st_size // 2)
    damage = convert(source, tmp_path / f"b{suffix}")
    assert "cut off" in damage or "damaged" in damage
    assert 20 < len(times_of(tmp_path / f"b{suffix}")) < 80


@pytest.mark.parametrize(
    "content", ["", "not a video" * 100, "#EXTM3U\n#EXTINF:1,\nfile://{folder}/secret.mp4\n#EXT-X-ENDLIST\n"]
)
def test_what_is_no_video_is_an_error_and_opens_no_other_file(tmp_path: Path, content: str) -> None:
    make_video(tmp_path / "secret.mp4", [0, 40])
    (tmp_path / "v.mp4").write_text(content.format(folder=tmp_path))
    with pytest.raises(ImageFormatError, match=r"v\.mp4 is not a video that can be read"):
        pixels_of(tmp_path / "v.mp4")


@pytest.mark.parametrize(("suffix", "codec"), [format[:2] for format in FORMATS])
def test_frames_that_unpack_to_too_many_pixels_are_refused(
    tmp_path: Path, suffix: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / f"a{suffix}", [0, 40], codec)
    monkeypatch.setattr(videos, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(ImageFormatError, match=r"not a video|no frame"):
        pixels_of(source)


def test_masks_are_lossless_and_of_any_size(tmp_path: Path, make_frame: Any) -> None:
    masks = [np.where(make_frame(33, 35, seed)[..., 0] > 128, 255, 0).astype(np.uint8) for seed in range(4)]
    with write_video(tmp_path / "a.mkv", lossless=True) as video:
        for mask in masks:
            video.write(mask)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.mkv")[..., 0], np.stack(masks))


def test_an_odd_size_loses_its_last_row_and_column_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with write_video(tmp_path / "a.mp4", 29.97) as video:
        video.write(gradients(1, 33, 35)[0])
    assert "33x35" in caplog.text
    assert pixels_of(tmp_path / "a.mp4").shape == (1, 32, 34, 3)


def test_a_lower_crf_is_better(tmp_path: Path, make_frame: Any) -> None:
    errors = []
    for crf in (5, 40):
        with write_video(tmp_path / "a.mp4", crf=crf) as video:
            video.write(make_frame(48, 64))
        errors.append(np.abs(pixels_of(tmp_path / "a.mp4")[0] - make_frame(48, 64)).mean())
    assert errors[0] < errors[1] - 5


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file can grow beyond 50 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".wmv"])
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, suffix: str, make_frame: Any) -> None:
    def write() -> None:
        with write_video(tmp_path / f"a{suffix}", crf=1) as video:
            for seed in range(100):
                video.write(make_frame(48, 64, seed))

    with pytest.raises(SapnetError, match=r"cannot be written \(File too large\)"):
        write()
    assert list(tmp_path.iterdir()) == []
