"""Write a paired data set of synthetic rain: ``python -m training.synthesize PHOTOGRAPHS OUT``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sapnet.commands.common import parse_positive, whole_number
from sapnet.errors import SapnetError
from sapnet.images.frame import Frame, psnr_y
from sapnet.media.contact_sheet import contact_sheet
from sapnet.media.pictures import read_image, write_image
from sapnet.rain import RainSynthesizer
from training.commands import make_parser, one_line_errors, table
from training.datasets.curriculum import RAIN_KINDS, draw_rain
from training.datasets.paired import find_pairs, find_photographs, read_pair, refuse
from training.metrics import streak_strength, true_streaks

EPILOG = """
OUT gets rainy/, clean/ and streaks/ (0 or 255: where streaks added more than 10/255 of luma, mist apart), as PNG of
equal names; photographs in folders are named with them, night/1.jpg as night_1.png.

examples:
  python -m training.synthesize photographs rain_train --rain heavy
  python -m training.synthesize photographs rain_train --copies 4 --compare datasets/test/Rain100L
  python -m training.synthesize photographs --sheet rain.jpg
"""
# Heading of a figure -> how it is shown.
_COLUMNS = {"images": "d", "PSNR (dB)": ".2f", "streaks": ".3f", "brightness": ".1f", "|dx|": ".2f", "|dy|": ".2f"}


class RainySample(NamedTuple):
    """rainy, clean: uint8 (h, w, 3) BGR. streaks: bool (h, w), where streaks added more than 10/255 of luma; mist is
    none."""

    rainy: Frame
    clean: Frame
    streaks: NDArray[np.bool_]


def statistics(samples: Iterable[RainySample]) -> tuple[float, ...]:
    """Of a paired set: the number of its images, and means over them, NaN without any.

    Those of ``_COLUMNS``: PSNR of the rainy image on Y in dB; the share of streak pixels, and the luma that rain added
    on those, 0 to 255; the mean absolute difference of horizontal and of vertical neighbours in the added luma: thin,
    upright streaks have a large |dx|, slanted and crossing ones a large |dy|. Dry samples, whose PSNR is infinite, are
    left out.
    """
    rows = []
    for sample in samples:
        if not np.array_equal(sample.rainy, sample.clean):
            added = streak_strength(sample.rainy, sample.clean).astype(int)
            brightness = added[sample.streaks].mean() if sample.streaks.any() else 0.0
            slopes = (np.abs(np.diff(added, axis=axis)).mean() for axis in (1, 0))
            rows.append((psnr_y(sample.rainy, sample.clean), sample.streaks.mean(), brightness, *slopes))
    means = np.mean(rows, axis=0) if rows else np.full(5, np.nan)
    return len(rows), *map(float, means)


def synthesize(folder: Path, kind: str, seed: int, copies: int = 1) -> Iterator[tuple[str, RainySample]]:
    """(name, sample) of every photograph in a folder, whole, ``copies`` times in different rain of this kind.

    Raises ImageFormatError that lists photographs whose names would be equal.
    """
    photographs = find_photographs(folder)
    names = ["_".join(path.relative_to(folder).with_suffix("").parts) for path in photographs]
    number_of = Counter(names)
    twice = [str(path) for path, name in zip(photographs, names, strict=True) if number_of[name] > 1]
    refuse("photographs whose rainy images would have one name; rename or move away", twice)
    for number, (stem, path) in enumerate(zip(names, photographs, strict=True)):
        clean = read_image(path)
        for copy in range(copies):
            name = stem if copies == 1 else f"{stem}_{copy + 1}"
            yield name, _rain(clean, kind, np.random.default_rng([seed, number, copy]))


def write_set(samples: Iterable[tuple[str, RainySample]], output: Path) -> Iterator[RainySample]:
    """Write the samples as ``rainy``, ``clean`` and ``streaks``, and yield them. Raises SapnetError."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise SapnetError(f"{output} is not an empty folder; name a new one")
    for name, sample in samples:
        for part, image in sample._asdict().items():
            write_image(output / part / f"{name}.png", image * np.uint8(255) if image.dtype == bool else image)
        yield sample


def make_sheet(photographs: Sequence[Path], seed: int, path: Path) -> None:
    """Write 24 samples as one picture: a row each of light, medium and heavy rain."""
    kinds, clean = ("light", "medium", "heavy"), map(read_image, cycle(photographs))
    rows = [
        {
            str(column + 1): _rain(next(clean), kind, np.random.default_rng([seed, row, column])).rainy
            for column in range(8)
        }
        for row, kind in enumerate(kinds)
    ]
    contact_sheet(rows, path, kinds)


def _rain(clean: Frame, kind: str, rng: np.random.Generator) -> RainySample:
    rain, seed = draw_rain(kind, rng), int(rng.integers(2**31))
    if rain is None:
        return RainySample(clean, clean, true_streaks(clean, clean))
    height, width = clean.shape[:2]
    synthesizer = RainSynthesizer(rain, height, width, seed)
    rainy, _ = synthesizer.add(clean, 0)
    return RainySample(rainy, clean, true_streaks(rainy, synthesizer.add_mist(clean)))


@one_line_errors("synthesize")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = make_parser("synthesize", __doc__, EPILOG)
    add = parser.add_argument
    add("photographs", type=Path, help="folder of clean images")
    add("output", type=Path, nargs="?", help="new folder for the pairs")
    add("--rain", default="mixed", choices=RAIN_KINDS, help="default: %(default)s")
    add("--copies", type=parse_positive, default=1, metavar="N", help="of each photograph (default: %(default)s)")
    add("--seed", type=whole_number(0), default=0, help="default: %(default)s")
    add("--compare", type=Path, nargs="+", default=[], metavar="FOLDER", help="pairs to compare with")
    add("--sheet", type=Path, metavar="IMAGE", help="write a picture of 24 samples")
    args = parser.parse_args(argv)
    if not args.output and not args.sheet:
        parser.error("nothing to write: name OUT, --sheet or both")
    if args.sheet:
        make_sheet(find_photographs(args.photographs), args.seed, args.sheet)
    sets: dict[Path, Iterable[RainySample]] = {
        folder: (RainySample(*pair, true_streaks(*pair)) for pair in map(read_pair, find_pairs(folder)))
        for folder in args.compare
    }
    if args.output:
        made = synthesize(args.photographs, args.rain, args.seed, args.copies)
        sets = {args.output: write_set(made, args.output), **sets}
    if sets:
        rows = [(str(folder), *map(format, statistics(samples), _COLUMNS.values())) for folder, samples in sets.items()]
        print(table(("set", *_COLUMNS), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
