"""Score weights, or images that another program wrote, on paired data sets, the way papers do.

PSNR (dB) and SSIM on Y and on RGB, means over images; precision, recall, F1 and Matthews correlation of the streak
masks, pixels of all images pooled. Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255; SSIM with a Gaussian window of
11x11, sigma 1.5, valid region. Streaks are where rain added more than 10/255 of luma.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sapnet.commands.common import derainer_from, progress_bar, whole_number
from sapnet.images.frame import Frame
from sapnet.media.contact_sheet import contact_sheet
from sapnet.model.weights import load_weights
from sapnet.streaks import DEFAULT_MASK_THRESHOLD
from training.commands import add_networks, make_parser, one_line_errors, parse_picture, table
from training.datasets.paired import ImagePair, check, find_pairs, read_pair, set_folders, short_names
from training.metrics import QUALITY, RAINY_INPUT, Method, Score, network, results, score, true_streaks

_EXAMPLES = """\
examples:
  python -m training.evaluate --data Rain100L Rain100H
  python -m training.evaluate --weights sapnet_fast mine.safetensors --data Rain100L --sheet sheet.png
  python -m training.evaluate --weights sapnet_fast --data Rain12 --every-stage
  python -m training.evaluate --results derained/ --data Rain1400 --json > scores.json
"""
# Of each figure: heading, and digits after the point.
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


@dataclass
class SetReport:
    """What was measured on one data set, method by method; the first is the rainy input.

    name: in tables. folder: as given. pictures: of the images that the sheet shows, by their pairs' names.
    """

    name: str
    folder: str
    pairs: Sequence[ImagePair]
    scores: list[Score] = field(default_factory=list)
    pictures: dict[str, dict[str, Frame]] = field(default_factory=dict)


@one_line_errors("evaluate")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.stages and args.every_stage:
        parser.error("argument --every-stage: not allowed with argument --stages")
    # Every image is read once before anything is scored.
    names = short_names(str(each) for folder in args.data for each in set_folders(folder))
    reports = [SetReport(name, folder, find_pairs(Path(folder))) for folder, name in names.items()]
    check(pair for report in reports for pair in report.pairs)
    with progress_bar(counts=True) as progress:
        task = progress.add_task("")
        for report, method in _methods(args, reports):
            progress.reset(task, description=f"{report.name}: {method.name}")
            report.scores.append(score(method, progress.track(report.pairs, task_id=task)))
            if args.sheet and method.source:
                _add_pictures(report)
    if args.sheet:
        rows = {_label(report, name): row for report in reports for name, row in report.pictures.items()}
        contact_sheet(list(rows.values()), args.sheet, list(rows))
    if args.json:
        # JSON has neither infinity nor NaN.
        found = json.loads(json.dumps([_as_json(report) for report in reports]), parse_constant=lambda _: None)
        print(json.dumps(found, indent=2))
    else:
        print("\n\n".join(map(_as_markdown, reports)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("evaluate", __doc__, _EXAMPLES)
    add = parser.add_argument
    data = "data sets of pairs, as published, or folders of such sets"
    add("--data", nargs="+", required=True, type=Path, metavar="FOLDER", help=data)
    named = "derained images named as the rainy ones; of several data sets in a folder of each one's name"
    add("--results", nargs="+", default=[], type=Path, metavar="DIR", help=named)
    add_networks(parser, default=())
    parser.set_defaults(precision="fp32")
    add("--every-stage", action="store_true", help="score the result after each of the weights' stages")
    threshold = "luma, 0 to 255, that must be taken out of a pixel to mark it as a streak (default: %(default)s)"
    add("--mask-threshold", type=whole_number(0, 255), default=DEFAULT_MASK_THRESHOLD, metavar="T", help=threshold)
    add("--json", action="store_true", help="print JSON, with the figures of each image, instead of a table")
    add("--sheet", type=parse_picture, metavar="PNG", help="write pictures of the best, the median and the worst image")
    return parser


def _methods(args: argparse.Namespace, reports: Sequence[SetReport]) -> Iterator[tuple[SetReport, Method]]:
    """What is to be scored on which data set, networks open as long as they are needed.

    Raises SapnetError, ValueError.
    """
    yield from ((report, RAINY_INPUT) for report in reports)
    weights = args.weights or ([] if args.results else ["sapnet_fast"])
    names = short_names([*map(str, args.results), *weights])
    for folder in args.results:
        for report in reports:
            place = folder / Path(report.folder).resolve().name if len(reports) > 1 else folder
            yield report, results(place, report.pairs, names[str(folder)], args.mask_threshold)
    for source in weights:
        stages = range(1, load_weights(source).config.stages + 1) if args.every_stage else [args.stages]
        for count in stages:
            with derainer_from(args, weights=source, stages=count, mask_threshold=args.mask_threshold) as derainer:
                method = network(derainer, names[source])
                yield from ((report, method) for report in reports)


def _add_pictures(report: SetReport) -> None:
    """Derain the images that are shown once more: the best, the median and the worst by the first method shown."""
    method, figures = report.scores[-1].method, report.scores[-1].images
    if not report.pictures:
        order = sorted(figures, key=lambda name: figures[name]["psnr_y"], reverse=True)
        report.pictures = {name: {} for name in (order[0], order[len(order) // 2], order[-1])}
    for pair in report.pairs:
        if (row := report.pictures.get(pair.name)) is not None:
            rainy, clean = read_pair(pair)
            streaks = np.where(true_streaks(rainy, clean), 255, 0).astype(np.uint8)
            derained, mask = method.derain(pair, rainy)
            row |= {"rainy": rainy, "clean": clean, "true streaks": streaks}
            row |= {method.name: derained, f"{method.name}: mask": mask}


def _label(report: SetReport, image: str) -> str:
    figures = {score.method.name: score.images[image] for score in report.scores}
    said = (f"{name} {of_image['psnr_y']:.2f} dB / {of_image['ssim_y']:.3f}" for name, of_image in figures.items())
    return f"{report.name} {image}: {', '.join(said)}"


def _as_json(report: SetReport) -> dict[str, Any]:
    """A data set with its methods, each with its images."""
    methods = [
        {
            **{name: value for name, value in vars(score.method).items() if name != "derain"},
            **_shown(score, score.figures),
            "images": [{"name": name, **_shown(score, figures)} for name, figures in score.images.items()],
        }
        for score in report.scores
    ]
    truth = {name: report.scores[0].figures[name] for name in ("streak_share", "f1_all_ones")}
    return {"name": report.name, "folder": report.folder, "pairs": len(report.pairs), **truth, "methods": methods}


def _shown(score: Score, figures: Mapping[str, float]) -> dict[str, float]:
    """The columns' figures; NaN for those of a mask where nothing makes one."""
    return {name: figures[name] if score.method.source or name in QUALITY else math.nan for name in _COLUMNS}


def _as_markdown(report: SetReport) -> str:
    """A heading and a table of means."""
    truth = report.scores[0].figures
    setting = (
        f"{len(report.pairs)} pairs; {truth['streak_share']:.1%} of the pixels are streaks, "
        f"a mask of all pixels has F1 {truth['f1_all_ones']:.3f}"
    )
    rows = []
    for of_method in report.scores:
        figures = zip(_shown(of_method, of_method.figures).values(), _COLUMNS.values(), strict=True)
        cells = ("-" if math.isnan(figure) else f"{figure:.{digits}f}" for figure, (_, digits) in figures)
        rows.append([of_method.method.name, str(of_method.method.stages or ""), *cells])
    return f"### {report.name}\n\n{setting}\n\n{table(('method', 'stages', *dict(_COLUMNS.values())), rows)}"


if __name__ == "__main__":
    sys.exit(main())
