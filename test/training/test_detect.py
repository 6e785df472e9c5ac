"""The detection command on made-up frames, with a detector of colours and the fake backend in place of a network."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from colour_detector import SIDE, write_colour_detector

from picture_builders import flat
from sapnet import Derainer
from sapnet.media.pictures import read_image, write_image
from training.detect import clean_frames, count, draw_detections, main, match, run_experiment, summarise
from training.detector import Detections, Detector


class Undoing:
    """Derains perfectly: knows the clean frame of every size. seen: the frames that it was given."""

    def __init__(self, *clean: np.ndarray) -> None:
        self._clean = {frame.shape: frame for frame in clean}
        self.seen: list[bytes] = []

    def __call__(self, frames):
        self.seen += [frame.tobytes() for frame in frames]
        return [type("Derained", (), {"image": self._clean[frame.shape]}) for frame in frames]


@pytest.fixture
def detector_file(tmp_path):
    return write_colour_detector(tmp_path / "colour.onnx")


def scene(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Gray with a red and a magenta patch, each a cell of the detector; rain spares the first and hides the other."""
    frame = flat(60, height, width)
    rows, columns = height // 4, width // 4
    frame[rows : 2 * rows, columns : 2 * columns] = 0, 0, 255
    frame[rows : 2 * rows, 3 * columns :] = 255, 195, 255
    return frame


@pytest.fixture
def photos(tmp_path):
    for index, size in enumerate([(SIDE, SIDE), (96, 128)]):
        write_image(tmp_path / "photos" / f"{index}.png", scene(*size))
    return tmp_path / "photos"


def test_what_is_undone_is_won_back_and_what_is_left_is_not(detector_file, photos):
    """On a frame, another, and the first once more: rain differs between frames and seeds."""
    undoing = Undoing(scene(), scene(96, 128))
    with Derainer(backend="fake") as idle:
        derainers = {"idle": idle, "undoing": undoing}
        frames = partial(clean_frames, [photos, photos / "0.png"])
        counts, _ = run_experiment(frames, Detector(detector_file), derainers, seeds=(1, 2, 3, 4))
    expected = {version: of_frames[:, 0].tolist() for version, of_frames in counts.items()}
    assert expected == {version: [8, 8, 8] for version in ("clean", "rainy", "idle", "undoing")}
    assert len(undoing.seen) == len(set(undoing.seen)) == 12
    figures = summarise(counts)
    assert figures["rainy"]["recall"]["value"] == 0.5
    assert figures["idle"]["recall"] == figures["rainy"]["recall"]
    assert figures["idle"]["won_back"] == {"value": 0, "interval": [0, 0]}
    assert figures["undoing"]["recall"] == {"value": 1, "interval": [1, 1]}
    assert figures["undoing"]["won_back"] == {"value": 1, "interval": [1, 1]}
    assert figures["undoing"]["confidence"] == figures["clean"]["confidence"]
    assert "won_back" not in figures["clean"].keys() | figures["rainy"].keys()


class TestCommand:
    @pytest.fixture
    def arguments(self, detector_file, photos):
        return ["--detector", str(detector_file), "--clips", str(photos), "--backend", "fake", "--seeds", "1", "2"]

    def test_writes_a_picture_and_prints_a_report(self, arguments, tmp_path, capsys):
        assert main([*arguments, "--picture", str(tmp_path / "new" / "detect.png"), "--json"]) == 0
        out, err = capsys.readouterr()
        report = json.loads(out)
        assert (report["frames"], report["clean_detections"], report["seeds"]) == (2, 4, [1, 2])
        assert report["networks"]["sapnet_fast"]["backend_name"] == "fake"
        assert list(report["figures"]) == ["clean", "rainy", "sapnet_fast"]
        assert "4 objects on the clean frames, expected at least 200" in err
        height, width, _ = read_image(tmp_path / "new" / "detect.png").shape
        assert height > 2 * 240
        assert width > 3 * 320

    def test_prints_a_table(self, arguments, capsys):
        assert main([*arguments, "--weights", "sapnet_fast", "clean.safetensors"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("4 objects on 2 clean frames; heavy rain, seeds 1, 2")
        names = [line.split("|")[1].strip() for line in lines[4:]]
        assert names == ["clean", "rainy", "sapnet_fast", "clean.safetensors"]
        assert {line.count("|") for line in lines[2:]} == {6}
        assert lines[4].split("|")[2].strip() == "1.000 [1.000, 1.000]"

    def test_nothing_found_on_the_clean_frames(self, arguments, tmp_path, capsys):
        write_image(tmp_path / "gray.png", flat(60, SIDE, SIDE))
        assert main([*arguments, "--clips", str(tmp_path / "gray.png")]) == 2
        assert "finds nothing on the 1 clean frames at confidence 0.4" in capsys.readouterr().err

    def test_wrong_input_is_one_line_and_status_2(self, arguments, capsys):
        assert main([*arguments, "--clips", "/no/clip"]) == 2
        assert capsys.readouterr().err == "detect: /no/clip does not exist; check the path\n"
        with pytest.raises(SystemExit, match="2"):
            main([*arguments, "--seeds", "1", "-1"])
        assert "argument --seeds: expected" in capsys.readouterr().err


def test_boxes_are_drawn_by_what_became_of_them():
    expected = Detections(
        np.array([[10.0, 100, 60, 160], [200, 100, 260, 160]]), np.array([0.9, 0.8]), np.array([0, 1])
    )
    found = Detections(np.array([[12.0, 100, 60, 160], [100, 20, 150, 70]]), np.array([0.7, 0.6]), np.array([0, 1]))
    frame = np.zeros((180, 320, 3), np.uint8)
    picture = draw_detections(frame, found, expected)
    assert not frame.any()
    again, missed, new = (picture[y, x] for x, y in ((12, 130), (200, 130), (100, 45)))
    assert again.argmax() == 1  # green
    assert missed.argmax() == 2  # red
    assert new[1] > 150  # yellow: green and red
    assert new[2] > 150


def objects(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of (left, top, right, bottom, confidence, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


CAR = (0, 0, 10, 10, 0.9, 2)


class TestMatch:
    def test_no_object_counts_twice_and_the_surer_wins(self):
        twice = objects((0, 0, 10, 9, 0.6, 2), (0, 0, 10, 8, 0.8, 2))
        assert match(twice, objects(CAR)).tolist() == [-1, 0]

    def test_takes_the_greatest_overlap_that_is_free(self):
        expected = objects((0, 0, 10, 10, 0.9, 2), (2, 0, 12, 10, 0.9, 2))
        found = objects((2, 0, 12, 10, 0.5, 2), (1, 0, 12, 10, 0.9, 2))
        # The surer takes the second, which the other fits exactly; the other is left with the first.
        assert match(found, expected).tolist() == [0, 1]


def test_count():
    expected = objects(CAR, (50, 0, 60, 10, 0.5, 2), (80, 0, 90, 10, 0.5, 2), (110, 0, 120, 10, 0.5, 2))
    # Two are found again, one surer than before; the third is of another class, the fourth overlaps too little.
    found = [(0, 0, 10, 9, 0.6, 2), (50, 0, 60, 9, 0.7, 2), (80, 0, 90, 10, 0.9, 3), (114, 0, 124, 10, 0.8, 2)]
    assert count(objects(*found, (200, 0, 210, 10, 0.9, 2)), expected) == pytest.approx([4, 5, 2, 1.3])
    # A little nearer, an IoU of 0.54, it is the same.
    assert count(objects((113, 0, 123, 10, 0.8, 2)), expected) == pytest.approx([4, 1, 1, 0.8])


class TestFigures:
    """Of counts of expected, found and matched objects, and the matched ones' confidences."""

    def summary(self, *derained: list[float]) -> dict[str, dict[str, float | None]]:
        """Values of the derained version's figures, whose frames these are, where rain left 4 of 10 objects."""
        counts = {"rainy": [[10, 4, 4, 2]] * len(derained), "derained": derained}
        return summarise({name: np.array(rows, np.float64) for name, rows in counts.items()})["derained"]

    def test_of_known_counts(self):
        figures = self.summary([2, 4, 1, 0.7], [1, 0, 1, 0.6])
        assert {name: figure["value"] for name, figure in figures.items()} == pytest.approx(
            {"recall": 2 / 3, "precision": 0.5, "confidence": 0.65, "won_back": 4 / 9}
        )

    def test_versions_draw_the_same_frames(self):
        rows = np.random.default_rng(0).uniform((8, 0, 0, 0), (9, 9, 8, 8), (12, 4))
        figures = summarise({"rainy": rows, "derained": rows})
        assert figures["derained"]["won_back"] == {"value": 0, "interval": [0, 0]}

    def test_the_interval_is_that_of_a_share(self):
        """400 frames of one object each, half of them found: the share has a standard error of 0.025."""
        found = [[1, at % 2, at % 2, at % 2] for at in range(400)]
        low, high = self.summary(*found)["recall"]["interval"]
        assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
        assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)

    def test_what_is_undefined_is_none(self):
        assert self.summary([2, 0, 0, 0])["precision"] == {"value": None, "interval": [None, None]}
