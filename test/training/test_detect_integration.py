"""FastestDet itself on driving frames (../shared/data)."""

from __future__ import annotations

from functools import partial

import pytest

from sapnet import Derainer
from sapnet.media.pictures import read_image
from training.detect import clean_frames, run_experiment, summarise
from training.detector import Detector


@pytest.fixture(scope="module")
def detector(shared_data):
    return Detector(shared_data / "detector" / "fastestdet.onnx")


def test_finds_the_two_cars_of_a_still(detector, shared_data):
    found = detector(read_image(shared_data / "driving" / "test6.jpg"), 0.6)
    assert found.classes.tolist() == [2, 2]  # COCO's car
    # The black and the white one, as a person would frame them.
    assert found.boxes[0] == pytest.approx([825, 405, 935, 502], abs=25)
    assert found.boxes[1] == pytest.approx([1040, 405, 1215, 500], abs=25)


def test_rain_costs_recall(detector, shared_data):
    frames = partial(clean_frames, [shared_data / "driving"], max_width=640)
    with Derainer(backend="fake") as idle:
        counts, _ = run_experiment(frames, detector, {"idle": idle}, seeds=(1,))
    figures = summarise(counts)
    assert figures["clean"]["recall"]["value"] == 1
    assert figures["rainy"]["recall"]["value"] < 0.8
    assert counts["clean"][:, 0].sum() > 10
