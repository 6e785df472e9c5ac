"""Curves and histograms as inline SVG, drawn with the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

WIDTH, HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 26, 40
_MARK_WIDTH = 36
_MAX_POINTS = 300
_MAX_BINS = 40
_STEPS = (1, 2, 2.5, 5, 10)
_FINEST = 1e-9  # what is less is rounding
QUANTILES = (50, 95, 99)


def line_chart(title: str, seconds: Sequence[float], values: Sequence[float], unit: str) -> str:
    """Values from 0 up over time, with the range of each moment where there are more than fit.

    seconds: ascending. unit: what the values are. Empty where there are no values.
    """
    if not len(values):
        return ""
    divisor, time_unit = _time_unit(seconds[-1])
    times = np.asarray(seconds, np.float64) / divisor
    middles, lows, means, highs = _thin(times, np.asarray(values, np.float64))
    across = _Axis(float(times[0]), float(times[-1]), _LEFT, WIDTH - _RIGHT)
    up = _Axis(0.0, max(float(highs.max()), 1e-3), HEIGHT - _BOTTOM, _TOP, round_end=True)
    band = [*zip(middles, highs, strict=True), *zip(middles[::-1], lows[::-1], strict=True)]
    parts = [
        *_frame(across, up, f"time from the start ({time_unit})", unit),
        f'<polygon class="band" points="{_points(band, across, up)}"/>',
        f'<polyline class="line" points="{_points(zip(middles, means, strict=True), across, up)}"/>',
    ]
    if len(means) == 1:
        parts.append(f'<circle class="dot" cx="{across(middles[0]):.1f}" cy="{up(means[0]):.1f}" r="3"/>')
    return _svg(title, parts)


def histogram(title: str, values: Sequence[float], unit: str) -> str:
    """How often values come, with lines at QUANTILES; those beyond stand in the last bar. Empty without values."""
    if not len(values):
        return ""
    numbers = np.asarray(values, np.float64)
    marks = [float(mark) for mark in np.percentile(numbers, QUANTILES)]
    low, high = float(numbers.min()), min(float(numbers.max()), 1.25 * marks[-1])
    if high - low < _FINEST:
        low, high = low - max(0.5, low / 20), high + max(0.5, high / 20)
    counts, edges = np.histogram(np.minimum(numbers, high), _bins(len(numbers)), (low, high))
    across = _Axis(low, high, _LEFT, WIDTH - _RIGHT)
    up = _Axis(0.0, float(counts.max()), HEIGHT - _BOTTOM, _TOP, round_end=True, whole=True)
    parts = _frame(across, up, unit, "frames")
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            x, y = across(left), up(count)
            width, height = across(right) - x - 0.6, HEIGHT - _BOTTOM - y
            parts.append(f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>')
    parts += _marks(marks, across)
    return _svg(title, parts)


def _bins(count: int) -> int:
    return min(_MAX_BINS, max(5, 2 * math.isqrt(count)))


def _marks(marks: Sequence[float], across: _Axis) -> list[str]:
    """A line for each quantile; names stand apart where lines do not."""
    parts, free = [], -math.inf
    for quantile, mark in zip(QUANTILES, marks, strict=True):
        x = across(mark)
        at = min(max(x, free), WIDTH - _RIGHT)
        free = at + _MARK_WIDTH
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{_TOP - 6}" text-anchor="middle">p{quantile}</text>')
    return parts


class _Axis:
    """Values to pixels, and where its ticks are. round_end: ends at a tick. whole: of whole numbers."""

    def __init__(
        self, low: float, high: float, first: float, last: float, round_end: bool = False, whole: bool = False
    ) -> None:
        self._step = _step((high - low) / 5, whole)
        if round_end:
            high = math.ceil(high / self._step - 1e-9) * self._step
        self._low, self._high = low, high if high > low else low + 1
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)

    def ticks(self) -> list[tuple[float, str]]:
        """Values, and what is written there."""
        first = math.ceil(self._low / self._step - 1e-9)
        last = math.floor(self._high / self._step + 1e-9)
        digits = next(digits for digits in range(15) if math.isclose(round(self._step, digits), self._step))
        return [(place * self._step, f"{place * self._step:.{digits}f}") for place in range(first, last + 1)]


def _step(rough: float, whole: bool) -> float:
    """A round number that is no less."""
    if rough < _FINEST:
        return 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in _STEPS if factor * size >= rough * (1 - 1e-9))
    return max(1.0, float(math.ceil(step))) if whole else step


def _time_unit(longest_s: float) -> tuple[float, str]:
    """What to divide seconds by, and the unit that makes of them."""
    return (3600.0, "h") if longest_s > 3 * 3600 else (60.0, "min") if longest_s > 300 else (1.0, "s")


def _thin(times: Numbers, values: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Mean time and lowest, mean and highest value of at most _MAX_POINTS runs of values."""
    runs = min(len(values), _MAX_POINTS)
    starts = np.linspace(0, len(values), runs, endpoint=False).astype(int)
    lengths = np.diff([*starts, len(values)])
    means = [np.add.reduceat(numbers, starts) / lengths for numbers in (times, values)]
    return means[0], np.minimum.reduceat(values, starts), means[1], np.maximum.reduceat(values, starts)


def _points(pairs: Iterable[tuple[float, float]], across: _Axis, up: _Axis) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in pairs)


def _frame(across: _Axis, up: _Axis, below: str, beside: str) -> list[str]:
    """Grid, ticks and what the axes show."""
    floor = HEIGHT - _BOTTOM
    parts = []
    for value, label in up.ticks():
        y = up(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in across.ticks():
        x = across(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{label}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(below)}</text>')
    parts.append(f'<text class="label" x="0" y="12">{escape(beside)}</text>')
    return parts


def _svg(title: str, parts: Sequence[str]) -> str:
    """title: for those who do not see it."""
    drawn = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">\n{drawn}\n</svg>'
