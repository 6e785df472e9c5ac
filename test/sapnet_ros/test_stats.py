"""Accounting: every frame is counted once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapnet_ros.stats import WINDOW, CameraStats

FATES = st.sampled_from(["derained", "building", "failure", "drop_invalid", "drop_overload", "pending"])


@given(st.lists(FATES))
def test_received_is_the_sum_of_all_fates(fates: list[str]) -> None:
    stats = CameraStats()
    for fate in fates:
        stats.count_received(0.0)
        if fate == "derained":
            stats.count_derained(0.01, 0.5)
        elif fate.startswith("drop_"):
            stats.count_dropped(fate)
        elif fate != "pending":
            stats.count_passed_through(fate)
    figures = stats.snapshot()
    assert figures.received == len(fates)
    assert figures.in_flight == fates.count("pending")
    assert figures.derained == fates.count("derained")
    assert figures.passed_through.get("building", 0) == fates.count("building")
    assert figures.dropped.get("drop_invalid", 0) == fates.count("drop_invalid")


def test_latency_percentiles_are_of_the_last_frames() -> None:
    stats = CameraStats()
    for _ in range(50):
        stats.count_derained(9.0, 0.0)
    for milliseconds in range(1, WINDOW + 1):
        stats.count_derained(milliseconds / 1000, 0.25)
    figures = stats.snapshot()
    assert figures.latency_ms == pytest.approx({"p50": WINDOW / 2, "p95": 0.95 * WINDOW, "p99": 0.99 * WINDOW})
    assert figures.rain_score == 0.25


def test_nothing_received_is_unknown_not_zero() -> None:
    figures = CameraStats().snapshot()
    assert figures.silent_s is None
    assert figures.rain_score is None
    assert figures.latency_ms == {}
