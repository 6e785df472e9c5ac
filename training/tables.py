"""What was measured, as text: an aligned table, markdown and JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from training.scores import FIGURES, QUALITY, Score, SetReport

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


def print_tables(reports: Sequence[SetReport]) -> None:
    """Print one aligned table for each data set to stdout."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for report in reports:
        table = Table(title=report.name, caption=_setting(report), box=box.SIMPLE_HEAD, padding=0, title_justify="left")
        table.caption_justify = "left"
        table.add_column("method", overflow="fold", min_width=12)
        table.add_column("stages", justify="right", no_wrap=True)
        for heading, _ in _COLUMNS.values():
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
        for score in report.scores:
            table.add_row(score.method.name, *_cells(score))
        console.print(table)


def to_markdown(reports: Sequence[SetReport]) -> str:
    """A heading and a table of means for each data set."""
    headings = ("method", "stages", *(heading for heading, _ in _COLUMNS.values()))
    lines = []
    for report in reports:
        lines += [f"### {report.name}", "", _setting(report), ""]
        lines += [_markdown_row(headings), _markdown_row(["---"] + ["---:"] * (len(headings) - 1))]
        lines += [_markdown_row((score.method.name, *_cells(score))) for score in report.scores]
        lines.append("")
    return "\n".join(lines)


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
    """Stages and figures; none of a mask where the method has none."""
    method = score.method
    shown = FIGURES if method.mask_threshold is not None else QUALITY
    cells = [f"{score.figures[name]:.{digits}f}" if name in shown else "" for name, (_, digits) in _COLUMNS.items()]
    return ["" if method.stages is None else str(method.stages), *cells]


def _setting(report: SetReport) -> str:
    truth = report.truth
    return (
        f"{len(report.pairs)} pairs; {truth.streak_share:.1%} of the pixels are streaks, "
        f"a mask of all pixels has F1 {truth.f1_all_ones:.3f}"
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
