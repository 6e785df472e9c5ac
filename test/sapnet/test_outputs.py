"""Images and videos that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sapnet.errors import SapnetError
from sapnet.files import replacing
from sapnet.media.sinks import VideoFile, open_video, write_image

Frame = NDArray[np.uint8]
MakeFrame = Callable[..., Frame]


def smooth_frames(count: int, height: int = 48, width: int = 64) -> list[Frame]:
    """Gradients in motion, which lossy codecs keep nearly as they are."""
    rows, columns = np.mgrid[:height, :width]
    return [np.stack([rows * 4, columns * 3, 90 + rows + columns + i], 2).astype(np.uint8) for i in range(count)]


def read_video(path: Path) -> tuple[float, list[Frame]]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        success, frame = capture.read()
        if not success:
            return capture.get(cv2.CAP_PROP_FPS), frames
        frames.append(frame)


def write_video(path: Path, frames: Iterable[Frame]) -> None:
    with open_video(path, 25) as video:
        for frame in frames:
            video.write(frame)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SapnetError, SystemExit])
def test_what_is_not_finished_leaves_nothing_and_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def stop_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    path = tmp_path / "file.txt"
    path.write_text("earlier")
    with pytest.raises(error):
        stop_half_way()
    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SapnetError, match=r"taken/file\.txt cannot be written"), replacing(tmp_path / "taken/file.txt"):
        pass


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".PNG"])
def test_lossless_images_come_back_as_they_were(tmp_path: Path, make_frame: MakeFrame, suffix: str) -> None:
    frame = make_frame(17, 23)
    write_image(tmp_path / f"a{suffix}", frame)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"a{suffix}")), frame)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_images_come_back_close(tmp_path: Path, suffix: str) -> None:
    [frame] = smooth_frames(1)
    write_image(tmp_path / f"a{suffix}", frame)
    assert np.abs(cv2.imread(str(tmp_path / f"a{suffix}")).astype(int) - frame).mean() < 2


def test_a_gray_format_takes_colour(tmp_path: Path) -> None:
    write_image(tmp_path / "a.pgm", np.full((16, 20, 3), 77, np.uint8))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.pgm"), cv2.IMREAD_UNCHANGED), np.full((16, 20), 77))


def test_an_image_larger_than_its_format_holds_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SapnetError, match=r"a\.webp: OpenCV cannot write 16x17000 as \.webp; name the output \.png"):
        write_image(tmp_path / "a.webp", np.zeros((16, 17000, 3), np.uint8))
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".wmv", ".mpg"])
def test_videos_keep_rate_size_and_frames(tmp_path: Path, suffix: str) -> None:
    frames = smooth_frames(12)
    with open_video(tmp_path / f"a{suffix}", 29.97) as video:
        for frame in frames:
            video.write(frame)
        assert not (tmp_path / f"a{suffix}").exists()
    fps, read = read_video(tmp_path / f"a{suffix}")
    assert fps == pytest.approx(29.97, abs=0.01)
    assert [frame.shape for frame in read] == [frame.shape for frame in frames]
    assert np.abs(np.stack(read).astype(int) - np.stack(frames)).mean() < 4


def test_lossless_videos_keep_every_value(tmp_path: Path, make_frame: MakeFrame) -> None:
    masks = [np.where(make_frame(48, 64, seed)[..., 0] > 128, 255, 0).astype(np.uint8) for seed in range(4)]
    with open_video(tmp_path / "a.mkv", 25, lossless=True) as video:
        for mask in masks:
            video.write(mask)
    _, read = read_video(tmp_path / "a.mkv")
    np.testing.assert_array_equal(np.stack(read)[..., 0], np.stack(masks))


def test_videos_of_odd_size_lose_the_last_row_and_column_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_video(tmp_path / "a.mkv", 25, lossless=True) as video:
        video.write(np.arange(33 * 35, dtype=np.uint8).reshape(33, 35))
    assert "33x35" in caplog.text
    _, [read] = read_video(tmp_path / "a.mkv")
    np.testing.assert_array_equal(read[..., 0], np.arange(33 * 35, dtype=np.uint8).reshape(33, 35)[:32, :34])


def test_a_video_whose_frames_change_size_is_an_error(tmp_path: Path, make_frame: MakeFrame) -> None:
    with pytest.raises(SapnetError, match="change from 48x64 to 32x64"):
        write_video(tmp_path / "a.mp4", [make_frame(48, 64), make_frame(32, 64)])
    assert names(tmp_path) == []


@pytest.mark.parametrize("count", [1, 2, 40])
def test_whole_videos_of_any_length_pass(tmp_path: Path, count: int) -> None:
    write_video(tmp_path / "a.mp4", smooth_frames(count))
    assert len(read_video(tmp_path / "a.mp4")[1]) == count


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".webm", ".wmv", ".mpg"])
def test_a_video_that_could_not_be_written_to_its_end_is_an_error(
    tmp_path: Path, make_frame: MakeFrame, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close_on_a_full_disk(video: VideoFile) -> None:
        close(video)
        [temporary] = tmp_path.iterdir()
        os.truncate(temporary, temporary.stat().st_size // 2)

    close = VideoFile.close
    monkeypatch.setattr(VideoFile, "close", close_on_a_full_disk)
    with pytest.raises(SapnetError, match="could not be written to its end; check the space on its disk"):
        write_video(tmp_path / f"a{suffix}", [make_frame(48, 64, seed) for seed in range(40)])
    assert names(tmp_path) == []


def test_a_codec_that_is_not_there_is_an_error(tmp_path: Path, make_frame: MakeFrame) -> None:
    with pytest.raises(SapnetError, match=r"cannot write \.xyz videos; name the output \.mp4"):
        write_video(tmp_path / "a.xyz", [make_frame(48, 64)])
    assert names(tmp_path) == []


def test_an_interrupted_video_leaves_nothing(tmp_path: Path, make_frame: MakeFrame) -> None:
    def frames() -> Iterator[Frame]:
        yield make_frame(48, 64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", frames())
    assert names(tmp_path) == []
