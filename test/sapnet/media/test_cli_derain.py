"""``sapnet derain``: what goes in, what comes out under which name, and what is refused."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from picture_builders import flat, gradients
from sapnet.cli import main
from sapnet.commands import derain
from sapnet.derainer import Derainer
from sapnet.images.frame import Frame
from sapnet.media.pictures import Picture, PictureFile, read_image, read_pictures, write_image, write_pictures
from sapnet.media.videos import read_video, write_video

MakeFrame = Callable[..., Frame]
NAMES = ["a.bmp", "a.png", "trip/a.png", "trip/day 2/ü.PNG"]


@pytest.fixture
def photos(tmp_path: Path, make_frame: MakeFrame) -> Path:
    """A folder with images of two sizes in two levels, and with what is not to be derained."""
    folder = tmp_path / "photos"
    for index, name in enumerate(NAMES):
        write_image(folder / name, make_frame(20 + index % 2, 30, index))
    for name in (".hidden.png", ".thumbnails/a.png"):
        write_image(folder / name, make_frame(20, 30))
    (folder / "notes.txt").write_text("not an image")
    return folder


def run(*arguments: object) -> int:
    return main(["derain", *map(str, arguments), "--backend", "fake"])


def save_clip(path: Path, count: int = 7) -> Path:
    """Smooth 48x64 frames at 12.5 per second."""
    with write_video(path, 12.5) as video:
        for frame in gradients(count):
            video.write(frame)
    return path


def read_clip(path: Path) -> tuple[float, list[Frame]]:
    with read_video(path) as video:
        return float(video.rate), [frame.pixels for frame in video.frames()]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_large_image_to_a_file_in_tiles(
    tmp_path: Path, make_frame: MakeFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "rainy.png", make_frame(300, 700))
    assert run(tmp_path / "rainy.png", "-o", tmp_path / "new/derained.png", "--tile", 256, "--masks") == 0
    assert files(tmp_path / "new") == ["derained.png", "derained_streak_mask.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "new/derained.png"), make_frame(300, 700))
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.startswith("derained 1 file, 1 frame in ")


def test_folders_keep_names_and_layout_and_no_more_frames_than_a_batch_are_derained_at_once(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = save_clip(tmp_path / "clip.mp4")
    calls, plain = [], Derainer.__call__
    monkeypatch.setattr(Derainer, "__call__", lambda self, frames: calls.append(len(frames)) or plain(self, frames))
    write_image(photos / "out/earlier.png", np.zeros((20, 30, 3), np.uint8))
    (photos / "folder.png").mkdir()
    assert run(photos, clip, "-o", photos / "out", "--batch", 3) == 0
    (photos / "out/earlier.png").unlink()
    assert calls == [3, 1, 3, 3, 1]
    assert files(photos / "out") == sorted([*NAMES, "clip.mp4"])
    for name in NAMES:
        np.testing.assert_array_equal(read_image(photos / "out" / name), read_image(photos / name))


def test_the_shipped_network_derains_as_derainer_does(tmp_path: Path, make_frame: MakeFrame) -> None:
    frame = cv2.GaussianBlur(make_frame(33, 50), (3, 3), 0)
    write_image(tmp_path / "rainy.png", frame)
    network = ["--weights", "sapnet_fast", "--backend", "torch", "--device", "cpu", "--precision", "fp32"]
    arguments = [str(tmp_path / "rainy.png"), "-o", str(tmp_path / "out"), "--masks", *network]
    assert main(["derain", *arguments]) == 0
    with Derainer("sapnet_fast", "torch", device="cpu", precision="fp32") as derainer:
        [expected] = derainer([frame])
    np.testing.assert_array_equal(read_image(tmp_path / "out/rainy.png"), expected.image)
    np.testing.assert_array_equal(read_image(tmp_path / "out/rainy_streak_mask.png")[..., 0], expected.streak_mask)
    assert expected.streak_mask.any()


def test_every_picture_of_an_animation_is_derained(tmp_path: Path) -> None:
    levels = [flat(level, 20, 30) for level in (40, 90, 200)]
    write_pictures(tmp_path / "a.webp", PictureFile([Picture(level) for level in levels], {"duration": 100}))
    assert run(tmp_path / "a.webp", "-o", tmp_path / "out", "--masks", "--batch", 2) == 0
    assert [round(picture.frame.mean()) for picture in read_pictures(tmp_path / "out/a.webp").pictures] == [40, 90, 200]
    assert not read_image(tmp_path / "out/a_streak_mask.png").any()


def test_masks_stand_beside_the_outputs_and_json_reports_every_file(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = save_clip(tmp_path / "clip.mp4"), tmp_path / "out"
    assert run(photos / "a.png", clip, "-o", out, "--masks", "--json") == 0
    assert files(out) == ["a.png", "a_streak_mask.png", "clip.mp4", "clip_streak_mask.mkv"]
    np.testing.assert_array_equal(read_image(out / "a_streak_mask.png"), np.zeros((21, 30, 3)))
    fps, masks = read_clip(out / "clip_streak_mask.mkv")
    assert fps == pytest.approx(12.5)
    np.testing.assert_array_equal(np.stack(masks), np.zeros((7, 48, 64, 3)))
    report = json.loads(capsys.readouterr().out)
    picture, video = report["files"]
    assert picture == {
        "input": str(photos / "a.png"),
        "output": str(out / "a.png"),
        "streak_mask": str(out / "a_streak_mask.png"),
        "frames": 1,
        "rain_score": 0.0,
        "damage": "",
    }
    assert (video["input"], video["streak_mask"], video["frames"]) == (str(clip), str(out / "clip_streak_mask.mkv"), 7)
    assert (report["failed"], report["frames"]) == ([], 8)
    assert report["fps"] == pytest.approx(8 / report["seconds"], rel=0.2)
    assert (report["backend"], report["precision"], report["weights"]) == ("fake", "fp32", "sapnet_fast")
    assert (report["stages"], report["device"]) == (4, "fake")


def test_an_input_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, photos: Path, make_frame: MakeFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "broken.mp4").write_bytes(b"no video")
    write_image(photos / "small.png", make_frame(15, 40))
    assert run(photos, "-o", tmp_path / "out", "--batch", 4, "--json") == 2
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert files(tmp_path / "out") == NAMES
    assert len(report["files"]) == 4
    failed = {Path(failure["input"]).name: failure["error"] for failure in report["failed"]}
    assert sorted(failed) == ["broken.mp4", "broken.png", "empty.jpg", "small.png"]
    assert all(name in error for name, error in failed.items())
    assert "at least 16x16" in failed["small.png"]
    assert "4 of 8 inputs could not be derained" in output.err.splitlines()[-1]


def test_a_video_that_is_cut_off_is_derained_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = save_clip(tmp_path / "clip.avi", 40)
    os.truncate(clip, clip.stat().st_size // 2)
    assert run(clip, "-o", tmp_path / "out", "--json") == 3
    output = capsys.readouterr()
    [report] = json.loads(output.out)["files"]
    assert 10 < report["frames"] < 30
    assert "cut off" in report["damage"]
    assert output.err.count("\n") == 1
    assert "clip.avi is derained only in part: it ends after" in output.err
    assert len(read_clip(tmp_path / "out/clip.avi")[1]) == report["frames"]


def test_no_name_ends_a_run(tmp_path: Path, make_frame: MakeFrame) -> None:
    names = ["2024-11-27T12:30:05", "file:a", "%05d", "na\udcefve", "a\nb", "--x"]
    for name in names:
        write_image(tmp_path / f"in/{name}.png", make_frame(20, 30))
        save_clip(tmp_path / f"in/{name}.mp4")
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--masks") == 0
    assert len(files(tmp_path / "out")) == 4 * len(names)
    for name in names:
        assert len(read_pictures(tmp_path / f"out/{name}.png").pictures) == 1
        assert len(read_clip(tmp_path / f"out/{name}.mp4")[1]) == 7


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_no_name_is_too_much_for_a_terminal(
    tmp_path: Path, make_frame: MakeFrame, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "\udce9 \u20ac.png", make_frame(20, 30))
    (tmp_path / "damaged \udce9 \u20ac.png").write_bytes(b"nothing")
    # A captured log would go to pytest's own process, in UTF-8.
    monkeypatch.setattr(logging.getLogger("sapnet"), "propagate", False)
    said = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, stream in said.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding, write_through=True))
    assert run(tmp_path, "-o", tmp_path / "out \udce9") == 2
    assert b"1 of 2 inputs could not be derained" in said["stderr"].getvalue()
    assert b"derained 1 file" in said["stdout"].getvalue()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_temporary_file(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(derainer: Derainer, frames: Sequence[Frame]) -> None:
        assert files(tmp_path / "out")
        signal.raise_signal(number)

    monkeypatch.setattr(Derainer, "__call__", signalled)
    # As in the foreground: background jobs ignore SIGINT and nohup SIGHUP.
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        status = run(save_clip(tmp_path / "clip.mp4"), "-o", tmp_path / "out")
    except SystemExit as stop:
        status = stop.code
    finally:
        signal.signal(number, before)
    assert status == 128 + number
    assert files(tmp_path / "out") == []


def test_a_backend_that_fails_ends_the_run_and_keeps_what_is_done_and_what_was_there(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    third_fails = {"fail_every": 3}
    monkeypatch.setattr(derain, "derainer_from", lambda args: Derainer(backend="fake", fake=third_fails))
    assert run(photos, "-o", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sapnet: error: fake failure")
    assert err.count("\n") == 1
    assert len(files(tmp_path / "out")) == 2
    (tmp_path / "there").mkdir()
    (tmp_path / "there/clip.mp4").write_text("earlier")
    assert run(save_clip(tmp_path / "clip.mp4"), "-o", tmp_path / "there", "--masks", "--overwrite") == 2
    assert files(tmp_path / "there") == ["clip.mp4"]
    assert (tmp_path / "there/clip.mp4").read_text() == "earlier"
