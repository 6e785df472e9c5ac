"""Decoding of FastestDet's output, and the refusal of other networks."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from colour_detector import MAGENTA, RED, SIDE, save_network, write_colour_detector

from sapnet.errors import SapnetError
from training.detector import Detector, decode

CLASSES = 3


def grid(*cells, rows: int = 4, columns: int = 8) -> np.ndarray:
    """An output without objects but for ``cells``: (row, column, objectness, x, y, w, h, class, its probability)."""
    prediction = np.zeros((5 + CLASSES, rows, columns), np.float32)
    prediction[5:] = 1 / CLASSES
    for row, column, objectness, x, y, w, h, index, probability in cells:
        prediction[:5, row, column] = objectness, x, y, w, h
        prediction[5:, row, column] = (1 - probability) / (CLASSES - 1)
        prediction[5 + index, row, column] = probability
    return prediction


class TestDecode:
    def test_a_cell_is_a_box_in_pixels(self):
        x, y, w, h = 0.3, -0.2, -1.5, -0.4
        found = decode(grid((1, 2, 0.9, x, y, w, h, 1, 0.8)), height=100, width=400, confidence=0.4)
        middle = (2 + math.tanh(x)) / 8 * 400, (1 + math.tanh(y)) / 4 * 100
        size = 400 / (1 + math.exp(-w)), 100 / (1 + math.exp(-h))
        expected = [m + sign * s / 2 for sign in (-1, 1) for m, s in zip(middle, size, strict=True)]
        assert found.boxes[0] == pytest.approx(np.clip(expected, 0, (400, 100, 400, 100)), abs=1e-3)
        assert found.confidences == pytest.approx([0.9**0.6 * 0.8**0.4])
        assert found.classes.tolist() == [1]

    def test_boxes_end_at_the_border(self):
        found = decode(grid((0, 7, 0.9, 0.9, -0.9, 2, 2, 0, 0.9)), 100, 400, 0.4)
        assert found.boxes[0, [1, 2]].tolist() == [0, 400]

    def test_one_object_seen_by_two_cells_is_one_by_the_surer(self):
        cells = grid((1, 2, 0.7, 0.5, 0, -1, -1, 0, 0.9), (1, 3, 0.9, -0.5, 0, -1, -1, 0, 0.9))
        found = decode(cells, 100, 400, 0.4)
        assert found.confidences == pytest.approx([0.9], rel=1e-6)

    def test_two_classes_on_one_place_are_two_objects_the_surer_first(self):
        cells = grid((1, 2, 0.7, 0.5, 0, -1, -1, 0, 0.9), (1, 3, 0.9, -0.5, 0, -1, -1, 2, 0.9))
        assert decode(cells, 100, 400, 0.4).classes.tolist() == [2, 0]


class TestDetector:
    def test_finds_what_is_there(self, tmp_path):
        detector = Detector(write_colour_detector(tmp_path / "colour.onnx"))
        frame = np.zeros((2 * SIDE, 4 * SIDE, 3), np.uint8)  # cells of 32 x 64 pixels
        frame[32:64, 64:128] = 0, 0, 255
        frame[96:128, 192:256] = 255, 0, 255
        found = detector(frame, 0.4)
        assert found.classes.tolist() == [RED, MAGENTA]
        assert found.confidences == pytest.approx([1, 1])
        assert found.boxes == pytest.approx(np.array([[0, 0, 128, 64], [128, 64, 256, 128]]), abs=1e-3)

    def test_no_onnx(self, tmp_path):
        (tmp_path / "wrong.onnx").write_text("no network")
        with pytest.raises(SapnetError, match=r"wrong\.onnx is not a network that onnxruntime can run"):
            Detector(tmp_path / "wrong.onnx")

    @pytest.mark.parametrize(
        ("operation", "got", "made"),
        [
            ("Flatten", [1, 3, 32, 32], [1, 3072]),
            ("Identity", [1, 3, 32, 32], [1, 3, 32, 32]),
            ("Identity", ["N", 3, "H", "W"], ["N", 3, "H", "W"]),
        ],
    )
    def test_another_layout_says_both_shapes(self, tmp_path, operation, got, made):
        onnx = pytest.importorskip("onnx")
        node = onnx.helper.make_node(operation, ["frame"], ["cells"])
        path = save_network(tmp_path / "other.onnx", [node], got, made)
        with pytest.raises(SapnetError, match=re.escape(f"are {[got, made]}; expected [1, 3, H, W]")):
            Detector(path)
