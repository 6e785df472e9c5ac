"""Write a paired data set of synthetic rain: ``python -m training.synthesize PHOTOGRAPHS OUT``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sapnet.commands.common import parse_positive, parse_whole
from sapnet.errors import SapnetError
from sapnet.images.frame import psnr_y
from sapnet.media.contact_sheet import contact_sheet
from sapnet.media.pictures import read_image, write_image
from training.commands import make_parser, one_line_errors, table
from training.datasets.curriculum import RAIN_KINDS, draw_rain
from training.datasets.paired import find_pairs, read_pair, refuse
from training.datasets.synthetic import Image, RainySample, find_photographs, rain_on
from training.metrics import streak_strength, true_streaks

EPILOG = """
OUT gets rainy/, clean/ and streaks/ (0 or 255: where streaks added more than 10/255 of luma, mist apart), as PNG of
equal names; photographs in folders are named with them, night/1.jpg as night_1.png.

examples:
  python -m training.synthesize photographs rain_train --rain heavy
  python -m training.synthesize photographs rain_train --copies 4 --compare datasets/test/Rain100L
  python -m training.synthesize photographs --sheet rain.jpg
"""
_COLUMNS = 8  # of the sheet


@dataclass(frozen=True)
class RainStatistics:
    """Of a paired set, means over its images.

    psnr: of the rainy image on Y, in dB. share: of streak pixels. brightness: luma that rain added on those, 0 to 255.
    dx, dy: mean absolute difference of horizontal and vertical neighbours in the added luma: thin, upright streaks have
    a large dx, slanted and crossing ones a large dy.
    """

    images: int
    psnr: float
    share: float
    brightness: float
    dx: float
    dy: float

    @classmethod
    def of(cls, samples: Iterable[RainySample]) -> RainStatistics:
        """Dry samples, whose PSNR is infinite, are left out."""
        rows = []
        for sample in samples:
            if not np.array_equal(sample.rainy, sample.clean):
                added = streak_strength(sample.rainy, sample.clean).astype(int)
                on_streaks = added[sample.streaks]
                brightness = on_streaks.mean() if on_streaks.size else 0.0
                slopes = (np.abs(np.diff(added, axis=axis)).mean() for axis in (1, 0))
                rows.append((psnr_y(sample.rainy, sample.clean), sample.streaks.mean(), brightness, *slopes))
        means = np.mean(rows, axis=0) if rows else np.full(5, np.nan)
        return cls(len(rows), *(float(mean) for mean in means))


def name_photographs(folder: Path) -> dict[str, Path]:
    """The photographs under ``folder`` by the names of what is made of them: ``night/1.jpg`` is ``night_1``.

    Raises ImageFormatError that lists those whose names would be equal.
    """
    named: dict[str, Path] = {}
    taken: dict[str, Path] = {}
    problems = []
    for path in find_photographs(folder):
        name = "_".join(path.relative_to(folder).with_suffix("").parts)
        first = taken.setdefault(name.lower(), path)
        if first is not path:
            problems.append(f"{path}: {first} is called {name}, too")
        named[name] = path
    refuse("photographs whose rainy images would have one name; rename or move away", problems)
    return named


def synthesize(
    photographs: Mapping[str, Path], kind: str, seed: int, copies: int = 1
) -> Iterable[tuple[str, RainySample]]:
    """(name, sample) of every photograph, whole, ``copies`` times in different rain of this kind.

    photographs: by the names of what is made of them.
    """
    for number, (stem, path) in enumerate(photographs.items()):
        clean = read_image(path)
        for copy in range(copies):
            rng = np.random.default_rng([seed, number, copy])
            name = stem if copies == 1 else f"{stem}_{copy + 1}"
            rain = draw_rain(kind, rng)
            yield name, rain_on(clean, rain, int(rng.integers(2**31)))


def write_set(samples: Iterable[tuple[str, RainySample]], output: Path) -> RainStatistics:
    """Write the samples as ``rainy``, ``clean`` and ``streaks``; returns their statistics. Raises SapnetError."""
    if output.exists() and not output.is_dir():
        raise SapnetError(f"{output} is a file; name a new folder")
    if output.exists() and any(output.iterdir()):
        raise SapnetError(f"{output} is not empty; name a new folder")

    def written() -> Iterable[RainySample]:
        for name, sample in samples:
            for part, image in zip(("rainy", "clean", "streaks"), _images(sample), strict=True):
                write_image(output / part / f"{name}.png", image)
            yield sample

    return RainStatistics.of(written())


def make_sheet(photographs: Sequence[Path], seed: int, path: Path) -> None:
    """Write 24 samples as one picture: a row each of light, medium and heavy rain."""
    kinds, rows = ("light", "medium", "heavy"), []
    for row, kind in enumerate(kinds):
        cells = {}
        for column in range(_COLUMNS):
            rng = np.random.default_rng([seed, row, column])
            clean = read_image(photographs[(row * _COLUMNS + column) % len(photographs)])
            cells[str(column + 1)] = rain_on(clean, draw_rain(kind, rng), int(rng.integers(2**31))).rainy
        rows.append(cells)
    contact_sheet(rows, path, kinds)


def _images(sample: RainySample) -> tuple[Image, Image, Image]:
    return sample.rainy, sample.clean, sample.streaks.astype(np.uint8) * np.uint8(255)


def _read_samples(folder: Path) -> Iterable[RainySample]:
    for pair in find_pairs(folder):
        rainy, clean = read_pair(pair)
        yield RainySample(rainy, clean, true_streaks(rainy, clean))


@one_line_errors("synthesize")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = make_parser("synthesize", __doc__ or "", EPILOG)
    parser.add_argument("photographs", type=Path, help="folder of clean images")
    parser.add_argument("output", type=Path, nargs="?", help="new folder for the pairs")
    parser.add_argument("--rain", default="mixed", choices=RAIN_KINDS, help="default: %(default)s")
    parser.add_argument(
        "--copies", type=parse_positive, default=1, metavar="N", help="of each photograph (default: %(default)s)"
    )
    parser.add_argument("--seed", type=partial(parse_whole, lowest=0), default=0, help="default: %(default)s")
    parser.add_argument("--compare", type=Path, nargs="+", default=[], metavar="FOLDER", help="pairs to compare with")
    parser.add_argument("--sheet", type=Path, metavar="IMAGE", help="write a picture of 24 samples")
    args = parser.parse_args(argv)
    if not args.output and not args.sheet:
        parser.error("nothing to write: name OUT, --sheet or both")
    statistics = {}
    if args.sheet:
        make_sheet(find_photographs(args.photographs), args.seed, args.sheet)
    if args.output:
        made = synthesize(name_photographs(args.photographs), args.rain, args.seed, args.copies)
        statistics[str(args.output)] = write_set(made, args.output)
    for folder in args.compare:
        statistics[str(folder)] = RainStatistics.of(_read_samples(folder))
    if statistics:
        rows = [_row(*item) for item in statistics.items()]
        print(table(("set", "images", "PSNR (dB)", "streaks", "brightness", "|dx|", "|dy|"), rows))
    return 0


def _row(name: str, one: RainStatistics) -> tuple[str, ...]:
    figures = f"{one.psnr:.2f}", f"{one.share:.3f}", f"{one.brightness:.1f}", f"{one.dx:.2f}", f"{one.dy:.2f}"
    return name, str(one.images), *figures


if __name__ == "__main__":
    sys.exit(main())
