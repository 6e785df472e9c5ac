"""A contact sheet of the best, the median and the worst image of each data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sapnet.media.contact_sheet import contact_sheet
from training.datasets.paired import ImagePair, read_pair
from training.metrics import Image, Plane, true_streaks
from training.scores import ImageScore, Score, SetReport


@dataclass
class _Row:
    pair: ImagePair
    label: str
    pictures: dict[str, Image | Plane] = field(default_factory=dict)


class Sheet:
    """Gathers pictures, method by method; the first one's PSNR on Y decides which images of a data set are shown."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, _Row]] = {}

    def add(self, report: SetReport, score: Score) -> None:
        """Derain the images that are shown of a data set once more and keep them. Raises SapnetError."""
        if report.folder not in self._rows:
            self._rows[report.folder] = _choose(report, score)
        name = score.method.name
        for index, row in self._rows[report.folder].items():
            rainy, _ = read_pair(row.pair)
            derained, mask = score.method.derain(row.pair, rainy)
            row.pictures |= {name: derained, f"{name}: mask": mask}
            row.label += f", {name} {_quality(score.images[index])}"

    def write(self, path: Path) -> None:
        """Write the pictures: rainy, each method's result and mask, clean, true streaks. Raises SapnetError."""
        rows = [row for rows in self._rows.values() for row in rows.values()]
        contact_sheet([_pictures(row) for row in rows], path, [row.label for row in rows])


def _choose(report: SetReport, score: Score) -> dict[int, _Row]:
    """Index in ``report.pairs`` -> row, for best, median and worst, or as many as there are."""
    order = sorted(range(len(score.images)), key=lambda index: -score.images[index].psnr_y)
    # Of fewer than three images the later name counts.
    chosen = {order[len(order) // 2]: "median", order[-1]: "worst", order[0]: "best"}
    rows = {}
    for index in sorted(chosen, key=order.index):
        pair, rainy = report.pairs[index], report.scores[0].images[index]
        rows[index] = _Row(pair, f"{report.name} {pair.name} ({chosen[index]}): rainy {_quality(rainy)}")
    return rows


def _pictures(row: _Row) -> dict[str, Image | Plane]:
    rainy, clean = read_pair(row.pair)
    streaks = np.where(true_streaks(rainy, clean), 255, 0).astype(np.uint8)
    return {"rainy": rainy, **row.pictures, "clean": clean, "true streaks": streaks}


def _quality(image: ImageScore) -> str:
    return f"{image.psnr_y:.2f} dB / {image.ssim_y:.3f}"
