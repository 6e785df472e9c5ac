"""Matching of objects, pooled figures and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from training.detection_metrics import (
    confidence,
    confidence_of_all,
    count,
    interval,
    match,
    precision,
    recall,
    resample,
    won_back,
)
from training.detector import Detections


def objects(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of (left, top, right, bottom, confidence, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


CAR = (0, 0, 10, 10, 0.9, 2)


class TestMatch:
    def test_equal_objects(self):
        both = objects(CAR, (50, 0, 60, 10, 0.5, 2))
        assert match(both, both, 0.5).tolist() == [0, 1]

    def test_another_class_is_another_object(self):
        assert match(objects((0, 0, 10, 10, 0.9, 7)), objects(CAR), 0.5).tolist() == [-1]

    def test_no_object_counts_twice_and_the_surer_wins(self):
        twice = objects((0, 0, 10, 9, 0.6, 2), (0, 0, 10, 8, 0.8, 2))
        assert match(twice, objects(CAR), 0.5).tolist() == [-1, 0]

    def test_takes_the_greatest_overlap_that_is_free(self):
        expected = objects((0, 0, 10, 10, 0.9, 2), (2, 0, 12, 10, 0.9, 2))
        found = objects((2, 0, 12, 10, 0.5, 2), (1, 0, 12, 10, 0.9, 2))
        # The surer takes the second, which the other fits exactly; the other is left with the first.
        assert match(found, expected, 0.5).tolist() == [0, 1]


def test_count():
    expected = objects(CAR, (50, 0, 60, 10, 0.5, 2), (80, 0, 90, 10, 0.5, 2))
    found = objects((0, 0, 10, 9, 0.6, 2), (50, 0, 60, 9, 0.7, 2), (200, 0, 210, 10, 0.9, 2), (80, 0, 90, 10, 0.9, 3))
    assert count(found, expected, 0.5) == pytest.approx([3, 4, 2, 1.3])


class TestFigures:
    def test_of_known_counts(self):
        counts = np.array([3, 4, 2, 1.3])
        assert recall(counts) == pytest.approx(2 / 3)
        assert precision(counts) == pytest.approx(0.5)
        assert confidence(counts) == pytest.approx(0.65)
        assert confidence_of_all(counts) == pytest.approx(1.3 / 3)

    @pytest.mark.parametrize(("matched", "share"), [(4, 0.0), (7, 0.5), (10, 1.0), (1, -0.5)])
    def test_recall_won_back(self, matched, share):
        rainy, derained = np.array([10.0, 4, 4, 2]), np.array([10.0, 10, matched, 2])
        assert won_back(derained, rainy) == pytest.approx(share)


class TestResample:
    def test_versions_draw_the_same_frames(self):
        rainy = np.random.default_rng(0).integers(1, 9, (12, 4)).astype(np.float64)
        assert np.array_equal(2 * resample(rainy), resample(2 * rainy))
        assert not np.array_equal(resample(rainy, seed=1), resample(rainy))

    def test_the_interval_is_that_of_a_share(self):
        """400 frames of one object each, half of them found: the share has a standard error of 0.025."""
        found = np.arange(400) % 2
        counts = np.stack([np.ones(400), found, found, found], axis=1).astype(np.float64)
        low, high = interval(recall(resample(counts)))
        assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
        assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
