"""Accounting: every frame is counted once."""

from __future__ import annotations

import time

import pytest

from sapnet_ros.fate import Parts
from sapnet_ros.stats import PERCENTILES, WINDOW, CameraStats


def test_latency_percentiles_are_of_the_last_frames() -> None:
    stats = CameraStats()
    for _ in range(50):
        stats.count_published(Parts(latency_s=9.0))
    for milliseconds in range(1, WINDOW + 1):
        stats.count_published(Parts(wait_s=0.001, latency_s=milliseconds / 1000))
    figures = stats.values()
    latency = [figures[f"latency_ms_p{percent}"] for percent in PERCENTILES]
    assert latency == pytest.approx([WINDOW / 2, 0.95 * WINDOW, 0.99 * WINDOW])
    assert figures["wait_ms_p50"] == pytest.approx(1.0)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    stats, now_s = CameraStats(), time.monotonic()
    for number in range(100):
        stats.count_received(now_s - 100 + number / 30)  # long ago
    for number in range(30):
        stats.count_received(now_s - 2 + number / 15)
    assert stats.values()["rate_in_hz"] == pytest.approx(15)
