"""What a detector loses to rain and wins back from deraining, measured against what it finds on clean frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.detector import Detections, Floats, overlaps

RESAMPLES = 2000
_INTERVAL = (0.025, 0.975)


def match(found: Detections, expected: Detections, iou: float) -> NDArray[np.int64]:
    """(N,): for each found object the index of the expected one that it is, -1 for none.

    In order of confidence, each takes the free expected object of its class that it overlaps most, by at least ``iou``.
    """
    candidates = overlaps(found.boxes, expected.boxes)
    candidates[(found.classes[:, None] != expected.classes[None, :]) | (candidates < iou)] = -1.0
    matched = np.full(len(found), -1)
    for index in np.argsort(-found.confidences, kind="stable").tolist() if len(expected) else ():
        best = int(candidates[index].argmax())
        if candidates[index, best] >= 0:
            matched[index] = best
            candidates[:, best] = -1.0
    return matched


def count(found: Detections, expected: Detections, iou: float) -> Floats:
    """(4,): objects expected, found, and matched, and the sum of the matched ones' confidences; add up to pool."""
    hits = match(found, expected, iou) >= 0
    return np.array((len(expected), len(found), hits.sum(), found.confidences[hits].sum()), np.float64)


def recall(counts: Floats) -> Floats:
    """Share of expected objects that were found, of ``count``'s figures (..., 4); NaN where none was expected."""
    return _ratio(counts[..., 2], counts[..., 0])


def precision(counts: Floats) -> Floats:
    """Share of found objects that were expected; NaN where none was found."""
    return _ratio(counts[..., 2], counts[..., 1])


def confidence(counts: Floats) -> Floats:
    """Mean confidence of the objects that were both expected and found; NaN where there are none.

    It can rise in rain, which the objects that are hard to see do not survive: see ``confidence_of_all``.
    """
    return _ratio(counts[..., 3], counts[..., 2])


def confidence_of_all(counts: Floats) -> Floats:
    """Mean confidence in the expected objects, 0 for one that was missed; NaN where none was expected."""
    return _ratio(counts[..., 3], counts[..., 0])


def won_back(derained: Floats, rainy: Floats) -> Floats:
    """Share of the recall that rain took which deraining gave back; NaN where rain took none.

    ``(recall(derained) - recall(rainy)) / (1 - recall(rainy))``, below 0 where deraining took more.
    """
    return _ratio(recall(derained) - recall(rainy), 1 - recall(rainy))


def resample(counts: Floats, seed: int = 0) -> Floats:
    """(RESAMPLES, 4): sums over as many frames as there are, drawn with replacement from ``counts`` (frames, 4).

    Equal numbers of frames and seeds draw the same frames, so that versions of the frames stay comparable.
    """
    frames = len(counts)
    drawn = np.random.default_rng(seed).multinomial(frames, np.full(frames, 1 / frames), size=RESAMPLES)
    sums: Floats = drawn.astype(np.float64) @ counts
    return sums


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of a figure's resampled values, those that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    low, high = np.quantile(defined, _INTERVAL) if defined.size else (np.nan, np.nan)
    return float(low), float(high)


def _ratio(part: Floats, whole: Floats) -> Floats:
    nothing = np.full(np.broadcast(part, whole).shape, np.nan)
    result: Floats = np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)
    return result
