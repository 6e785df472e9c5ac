"""Matching of objects, pooled figures and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from training.detection import count, match, summarise
from training.detector import Detections


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
