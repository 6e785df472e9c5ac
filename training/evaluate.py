"""Scores derained images and streak masks against paired data sets, the way papers do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from sapnet.commands.common import counting_bar, derainer_from, parse_whole
from sapnet.files import replacing
from sapnet.media.sources import IMAGE_SUFFIXES
from sapnet.streaks import DEFAULT_MASK_THRESHOLD
from training.commands import add_networks, make_parser, one_line_errors
from training.datasets.paired import check_pairs, find_pairs, set_folders, short_names
from training.reports import Sheet, to_json, to_markdown, to_text
from training.scores import Method, SetReport, network, rainy_input, results, score

_DESCRIPTION = """\
Score weights, or images that another program wrote, on paired data sets: PSNR (dB) and SSIM on Y and on RGB, means
over images; precision, recall, F1 and Matthews correlation of the streak masks, pixels of all images pooled.

Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255; SSIM with a Gaussian window of 11x11, sigma 1.5, valid region.
Streaks are where rain added more than 10/255 of luma.
"""
_EXAMPLES = """\
examples:
  python -m training.evaluate --data Rain100L Rain100H
  python -m training.evaluate --weights sapnet_fast mine.safetensors --data Rain100L --sheet sheet.png
  python -m training.evaluate --weights sapnet_fast --data Rain12 --every-stage --markdown
  python -m training.evaluate --results derained/ --data Rain1400 --json scores.json
"""
_STDOUT = "-"
_FORMATS: Mapping[str, Callable[[Sequence[SetReport]], str]] = MappingProxyType(
    {"json": to_json, "markdown": to_markdown}
)


@one_line_errors("evaluate")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if [getattr(args, name) for name in _FORMATS].count(_STDOUT) > 1:
        parser.error(f"only one of --{', --'.join(_FORMATS)} can be printed; give the others a FILE")
    if args.stages and args.every_stage:
        parser.error("argument --every-stage: not allowed with argument --stages")
    _write(_measure(args), args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("evaluate", _DESCRIPTION, _EXAMPLES)
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="data sets of pairs, as published, RAINY:CLEAN, or folders of such sets",
    )
    add(
        "--results",
        nargs="+",
        default=[],
        type=Path,
        metavar="DIR",
        help="derained images named as the rainy ones; of several data sets in a folder of each one's name",
    )
    add_networks(parser, default=())
    parser.set_defaults(precision="fp32")
    add("--every-stage", action="store_true", help="score the result after each of the weights' stages")
    add(
        "--mask-threshold",
        type=partial(parse_whole, lowest=0, highest=255),
        default=DEFAULT_MASK_THRESHOLD,
        metavar="T",
        help="luma, 0 to 255, that must be taken out of a pixel to mark it as a streak (default: %(default)s)",
    )
    for name in _FORMATS:
        add(f"--{name}", nargs="?", const=_STDOUT, metavar="FILE", help="write it to FILE, or print it, not the table")
    add("--sheet", type=_parse_sheet, metavar="PNG", help="write pictures of the best, the median and the worst image")
    return parser


def _parse_sheet(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"expected a file that ends in .png, got {text!r}")
    return path


def _measure(args: argparse.Namespace) -> list[SetReport]:
    """Score all that was asked for, and write the sheet. Raises SapnetError, ValueError."""
    reports = _open_data(args.data)
    sheet = Sheet()
    with counting_bar() as progress:
        for report, method, is_shown in _methods(args, reports):
            task = progress.add_task(f"{report.name}: {method.name}", total=len(report.pairs))
            report.scores.append(score(method, report.pairs, on_image=partial(progress.advance, task)))
            progress.remove_task(task)
            if args.sheet and is_shown:
                sheet.add(report, report.scores[-1])
    if args.sheet:
        sheet.write(args.sheet)
    return reports


def _open_data(folders: Sequence[Path]) -> list[SetReport]:
    """The data sets, every image of them read once. Raises ImageFormatError."""
    names = short_names(str(each) for folder in folders for each in set_folders(folder))
    reports = [SetReport(name, folder, find_pairs(Path(folder))) for folder, name in names.items()]
    check_pairs([pair for report in reports for pair in report.pairs])
    return reports


def _methods(args: argparse.Namespace, reports: Sequence[SetReport]) -> Iterator[tuple[SetReport, Method, bool]]:
    """What is to be scored on which data set, networks open as long as they are needed, and whether the sheet shows it.

    Raises SapnetError, ValueError.
    """
    yield from ((report, rainy_input(), False) for report in reports)
    weights = args.weights or ([] if args.results else ["sapnet_fast"])
    names = short_names([*map(str, args.results), *weights])
    for folder in args.results:
        for report in reports:
            inside = folder / Path(report.folder).resolve().name
            place = inside if inside.is_dir() or len(reports) > 1 else folder
            yield report, results(place, report.pairs, names[str(folder)], args.mask_threshold), True
    for source in dict.fromkeys(weights):
        counts = _stage_counts(args, source)
        for stages in counts:
            with derainer_from(args, weights=source, stages=stages, mask_threshold=args.mask_threshold) as derainer:
                method = network(derainer, names[source])
                yield from ((report, method, stages == counts[-1]) for report in reports)


def _stage_counts(args: argparse.Namespace, weights: str) -> Sequence[int]:
    if not args.every_stage:
        return [args.stages]
    with derainer_from(args, weights=weights) as derainer:
        return range(1, derainer.stages + 1)


def _write(reports: Sequence[SetReport], args: argparse.Namespace) -> None:
    """Print one format, and write those that were asked for as files. Raises SapnetError."""
    wanted = {name: file for name in _FORMATS if (file := getattr(args, name))}
    for name, file in wanted.items():
        text = _FORMATS[name](reports)
        if file == _STDOUT:
            print(text, end="")
        else:
            with replacing(Path(file)) as temporary:
                temporary.write_text(text, encoding="utf-8")
    if _STDOUT not in wanted.values():
        print(to_text(reports), end="")


if __name__ == "__main__":
    sys.exit(main())
