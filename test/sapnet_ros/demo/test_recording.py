"""The demo's inputs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bag_builders import START_NS, Sent, image
from replay_bags import record
from sapnet.errors import BagError
from sapnet_ros.demo.recording import read_input


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
