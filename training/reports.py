"""What was measured, as an aligned table, markdown, JSON and a contact sheet."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console

from sapnet.media.contact_sheet import contact_sheet
from training.commands import table
from training.datasets.paired import ImagePair, read_pair
from training.metrics import Image, Plane, true_streaks
from training.scores import FIGURES, QUALITY, ImageScore, Score, SetReport

# Figure -> heading and digits after the point.
_COLUMNS: Mapping[str, tuple[str, int]] = {
    "psnr_y": ("PSNR Y", 2),
    "ssim_y": ("SSIM Y", 3),
    "psnr_rgb": ("PSNR RGB", 2),
    "ssim_rgb": ("SSIM RGB", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "f1": ("F1", 3),
    "matthews": ("Matthews", 3),
}
# Where there is no terminal to fit into.
_WIDTH = 120
# Fields of a Method, null in JSON where there is no such thing.
_ABOUT = ("name", "source", "mask_threshold", "stages", "backend")


def to_text(reports: Sequence[SetReport]) -> str:
    """One aligned table for each data set, as wide as the terminal."""
    headings = [heading.replace(" ", "\n") for heading, _ in _COLUMNS.values()]
    width = Console().width if sys.stdout.isatty() else _WIDTH
    parts = []
    for report in reports:
        rows = table(("method", "stages", *headings), map(_cells, report.scores), box.SIMPLE_HEAD, width)
        parts += [report.name, rows, _setting(report), ""]
    return "\n".join(parts)


def to_markdown(reports: Sequence[SetReport]) -> str:
    """A heading and a table of means for each data set."""
    headings = ("method", "stages", *(heading for heading, _ in _COLUMNS.values()))
    parts = []
    for report in reports:
        rows = table(headings, map(_cells, report.scores), box.MARKDOWN)
        parts += [f"### {report.name}", "", _setting(report), "", rows, ""]
    return "\n".join(parts)


def to_json(reports: Sequence[SetReport]) -> str:
    """A list of data sets, each with its methods, each with its images; null for an infinite PSNR."""
    data = [
        {
            "name": report.name,
            "folder": report.folder,
            "pairs": len(report.pairs),
            "streak_share": report.truth.streak_share,
            "f1_all_ones": report.truth.f1_all_ones,
            "methods": [_as_json(score) for score in report.scores],
        }
        for report in reports
    ]
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _as_json(score: Score) -> dict[str, Any]:
    return {
        **{name: getattr(score.method, name) for name in _ABOUT},
        **_finite(score.figures),
        "images": [{"name": image.name, **_finite(image.figures)} for image in score.images],
    }


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _cells(score: Score) -> list[str]:
    """A method's name, stages and figures; none of a mask where the method has none."""
    method = score.method
    shown = FIGURES if method.mask_threshold is not None else QUALITY
    cells = [f"{score.figures[name]:.{digits}f}" if name in shown else "" for name, (_, digits) in _COLUMNS.items()]
    return [method.name, "" if method.stages is None else str(method.stages), *cells]


def _setting(report: SetReport) -> str:
    truth = report.truth
    return (
        f"{len(report.pairs)} pairs; {truth.streak_share:.1%} of the pixels are streaks, "
        f"a mask of all pixels has F1 {truth.f1_all_ones:.3f}"
    )


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
    order = sorted(range(len(score.images)), key=lambda index: -score.images[index].quality["psnr_y"])
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
    return f"{image.quality['psnr_y']:.2f} dB / {image.quality['ssim_y']:.3f}"
