"""The demo as its users run it: processes over DDS, on the fake backend unless it says otherwise."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bag_builders import START_NS, Sent, image
from replay_bags import record

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from rosbags.highlevel import AnyReader

from sapnet.errors import BagError, SapnetError
from sapnet.images.messages import decode_image
from sapnet.media.sequence import RainySequence
from sapnet_ros.demo import command as demo
from sapnet_ros.demo.recording import read_input
from sapnet_ros.replay.processes import own_domain

KEYS = ["sent", "received", "derained", "passed_through", "dropped", "latency_ms", "psnr_rainy", "psnr_derained"]
KEYS += ["backend", "precision", "weights", "versions"]
RESULTS = {"contact_sheet.png", "derained.mp4", "bag", "summary.json"}


def run_demo(*words: str) -> int:
    parser = ArgumentParser()
    demo.add_parser(parser.add_subparsers())
    return demo.run(parser.parse_args(["demo", *words]))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight pictures of two sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(8):
        size = (64, 48) if index % 4 == 3 else (48, 64)
        cv2.imwrite(str(folder / f"{index}.png"), np.full((*size, 3), 20 * index + 40, np.uint8))
    return folder


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def test_a_demo_holds_what_was_sent_and_what_came_back(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frames of two sizes, for both of which the node is ready; in a folder with files of others and of an old run."""
    out = tmp_path / "out"
    (out / "bag").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    (out / "bag" / "old.mcap").write_text("of an earlier run")
    assert run_demo(str(photos), "--backend", "fake", "--rate", "20", "--json", "-o", str(out)) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(capsys.readouterr().out) == summary
    counts = {name: summary[name] for name in KEYS[:5]}
    assert counts == {"sent": 8, "received": 8, "derained": 8, "passed_through": 0, "dropped": 0}
    assert summary["psnr_rainy"] is summary["psnr_derained"] is None
    assert (summary["backend"], summary["weights"]) == ("fake", "sapnet_fast")
    assert {path.name for path in out.iterdir()} == RESULTS | {"notes.txt"}
    assert {path.suffix for path in (out / "bag").iterdir()} == {".mcap", ".yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out"}

    frames = [frame.rainy for frame in RainySequence(photos)]
    seen: dict[str, list[Any]] = {}
    with AnyReader([out / "bag"]) as reader:
        for connection, _, data in reader.messages():
            seen.setdefault(connection.topic, []).append(reader.deserialize(data, connection.msgtype))
    assert len(seen.pop("/sapnet_demo/rain_score")) == len(frames)
    topics = ("image", "derained/image", "derained/camera_info", "streak_mask/image", "frame_status")
    assert set(seen) == {f"/sapnet_demo/{topic}" for topic in topics}
    stamps = [stamp_of(message) for message in seen["/sapnet_demo/image"]]
    assert [round((stamp - stamps[0]) / 1e6) for stamp in stamps] == [50 * number for number in range(8)]
    for messages in seen.values():
        assert [stamp_of(message) for message in messages] == stamps
        assert {message.header.frame_id for message in messages} == {"camera"}
    for topic in ("/sapnet_demo/image", "/sapnet_demo/derained/image"):
        for message, frame in zip(seen[topic], frames, strict=True):
            np.testing.assert_array_equal(decode_image(message).bgr, frame)


def test_open_loop_on_the_builtin_photographs_shows_the_drops_and_the_quality(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="runs the real network")
    pytest.importorskip("skimage", reason="the built-in photographs come with scikit-image")
    out, words = tmp_path / "out", ("--backend", "torch", "--device", "cpu")
    assert run_demo(*words, "--open-loop", "--rate", "50", "--frames", "30", "-o", str(out)) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary) == KEYS
    assert {"sapnet", "rclpy", "torch"} <= set(summary["versions"])
    assert summary["dropped"] > 0
    assert summary["received"] == summary["derained"] + summary["passed_through"] + summary["dropped"]
    latency = summary["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] < 60_000
    assert 20 < summary["psnr_rainy"] < summary["psnr_derained"] < 50
    assert cv2.imread(str(out / "contact_sheet.png")).shape[1] > 4 * 320
    video = cv2.VideoCapture(str(out / "derained.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == summary["derained"] + summary["passed_through"]
    video.release()


def test_input_that_breaks_on_the_way(photos: Path, tmp_path: Path) -> None:
    (photos / "5.png").write_bytes(b"broken")
    with pytest.raises(SapnetError, match=r"5\.png is not a picture that can be read"):
        run_demo(str(photos), "--backend", "fake", "-o", str(tmp_path / "out"))
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_every_demo_has_a_domain_of_its_own(tmp_path: Path) -> None:
    before = os.environ["ROS_DOMAIN_ID"]
    with own_domain(tmp_path) as first, own_domain(tmp_path) as second:
        assert first != second
        assert os.environ["ROS_DOMAIN_ID"] == str(second)
    assert os.environ["ROS_DOMAIN_ID"] == before


def flat(value: int) -> np.ndarray:
    return np.full((32, 48, 3), value, np.uint8)


def camera(topic: str, *frames: np.ndarray, encoding: str = "bgr8") -> list[Sent]:
    """Ten frames a second."""
    return [image(topic, START_NS + number * 10**8, frame, encoding) for number, frame in enumerate(frames)]


def test_bag_gives_its_first_colour_topic(tmp_path: Path) -> None:
    gray = camera("/gray", np.zeros((32, 48), np.uint8), encoding="mono8")
    colour = camera("/colour", *map(flat, (1, 2, 3)))
    bag = record(tmp_path / "bag", [*gray, *colour, *camera("/other", flat(9))])
    for path in (bag, next(file for file in bag.iterdir() if file.suffix == ".mcap")):
        frames = list(read_input(path))
        assert [name for name, _ in frames] == ["000000", "000001", "000002"]
        for value, (_, frame) in enumerate(frames, 1):
            np.testing.assert_array_equal(frame, flat(value))


def test_a_bag_that_lacks_a_file_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", camera("/colour", *map(flat, (1, 2, 3))))
    metadata = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(metadata.replace("  - bag.mcap", "  - bag.mcap\n  - bag_1.mcap"))
    source = read_input(bag)
    assert [int(frame.mean()) for _, frame in (next(source), next(source), next(source))] == [1, 2, 3]
    with pytest.raises(BagError, match=r"can be read only in part: bag_1\.mcap of the recording is missing"):
        next(source)


def test_what_is_no_recording_is_read_as_pictures_and_videos(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), flat(7))
    for path in (tmp_path, tmp_path / "a.png"):
        [(name, frame)] = read_input(path)
        assert name == "a.png"
        np.testing.assert_array_equal(frame, flat(7))
