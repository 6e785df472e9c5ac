"""Photographs, and pairs of a rainy and a clean image in the layouts that data sets are published in."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sapnet.errors import ImageFormatError
from sapnet.files import natural_key
from sapnet.images.frame import MIN_SIDE, Frame
from sapnet.media.formats import is_image
from sapnet.media.pictures import read_image

# Names of folders, lower case.
_RAINY = ("rainy", "rain", "input", "rainy_image")
_CLEAN = ("clean", "norain", "target", "groundtruth", "ground_truth", "gt")
# Rainy images and clean ones that share a folder, by their stems; streak layers and the like lie there, too.
_RAINY_STEM = re.compile(r"rain[-_]?\d+(x\d+)?|.+_in")
_CLEAN_STEM = re.compile(r"norain[-_]?\d+|.+_gt")
# Stem of a rainy image -> stem of its clean one. The rule that finds most clean images holds for the whole set.
_RULES = (
    (r"(.+)", r"\1"),
    (r"(?:no)?(rain[-_]?\d+)(?:x\d+)?", r"no\1"),  # Rain100L and H, RainTrainL and H
    (r"(.+)_in", r"\1_gt"),  # Rain12
    (r"(.+)_\d+", r"\1"),  # Rain1400 and Rain12600: 14 kinds of rain on each photograph
)
_EXPECTED = (
    "expected rainy/ and clean/, input/ and target/, rainy_image/ and ground_truth/, rain-1.png and norain-1.png, "
    "1_in.png and 1_GT.png, or folders of such sets"
)
_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class ImagePair:
    """Files of one scene with and without rain. name: the rainy image's stem, unique in its set."""

    name: str
    rainy: Path
    clean: Path


def find_pairs(folder: Path) -> list[ImagePair]:
    """The pairs of a data set as published, by the files' names alone, in natural order.

    folder: Rain100L and H, Rain12, RainTrainL and H, Rain1400, Rain12600; any folder with a folder of rainy images
    and one of clean ones whose stems are equal. Hidden files and files that are no images are passed over. A clean
    image may have several rainy ones.
    Raises ImageFormatError that lists every image without its counterpart and every stem that stands twice.
    """
    rainy, clean = _both_sides(folder)
    if not (rainy and clean):
        inside = (f"{path.name}/ with {len(images_in(path))}" for path in _visible(folder) if path.is_dir())
        holds = ", ".join([f"{len(images_in(folder))} images", *inside])
        raise ImageFormatError(f"{folder}: no pairs of images found, it holds {holds}; {_EXPECTED}")
    by_stem = {path.stem.lower(): path for path in clean}
    partners: dict[Path, Path] = {}
    for pattern, replacement in _RULES:
        matches = {path: re.fullmatch(pattern, path.stem.lower()) for path in rainy}
        stems = {path: match.expand(replacement) for path, match in matches.items() if match}
        found = {path: by_stem[stem] for path, stem in stems.items() if stem in by_stem}
        partners = max(partners, found, key=len)
    used = set(partners.values())
    problems = [f"{path}: no clean image of that name" for path in rainy if path not in partners]
    problems += [f"{path}: no rainy image of that name" for path in clean if path not in used]
    for paths in (rainy, clean):
        stems_of = Counter(path.stem.lower() for path in paths)
        problems += [f"{path}: two images have this name" for path in paths if stems_of[path.stem.lower()] > 1]
    refuse(f"{folder} does not pair up; mend, add or move away", problems)
    return [ImagePair(path.stem, path, partners[path]) for path in rainy]


def find_sets(folders: Iterable[str | Path]) -> dict[str, list[ImagePair]]:
    """The pairs of each data set in ``folders`` by its short name. Raises ImageFormatError."""
    names = short_names(str(each) for folder in folders for each in set_folders(Path(folder)))
    return {name: find_pairs(Path(folder)) for folder, name in names.items()}


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Weights or folders as given -> what tables call them: the ends of their paths, or all where those are equal."""
    ends = {source: path.stem if (path := Path(source)).is_file() else path.name or source for source in sources}
    number = Counter(ends.values())
    return {source: end if number[end] == 1 else source for source, end in ends.items()}


def set_folders(folder: Path) -> list[Path]:
    """``folder``; where it is no data set but holds some, those, in natural order.

    Folders beside them that hold no pairs, such as one of clean photographs, are passed over.
    """
    if not folder.is_dir():
        raise ImageFormatError(f"{folder}: no such folder; {_EXPECTED}")
    if all(_both_sides(folder)):
        return [folder]
    return [path for path in _visible(folder) if path.is_dir() and all(_both_sides(path))] or [folder]


def find_photographs(folder: Path) -> list[Path]:
    """Image files under ``folder``, however deep, in the order of their names; hidden ones are passed over.

    Raises ImageFormatError without any.
    """
    files = sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())
    found = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        what = "holds no images" if folder.is_dir() else "no such folder"
        raise ImageFormatError(f"{folder}: {what}; expected a folder with clean photographs")
    return found


def check(pairs: Iterable[ImagePair], least: int = MIN_SIDE) -> None:
    """Read all pairs. least: pixels that both sides must have.

    Raises ImageFormatError that lists images that are unreadable or too small, and pairs of unequal sizes.
    """
    # The rainy images of one photograph follow each other.
    read = lru_cache(os.cpu_count())(read_image)

    def problem(pair: ImagePair) -> str:
        try:
            height, width, _ = read_pair(pair, read)[0].shape
        except (ImageFormatError, OSError) as err:
            return str(err)
        too_small = f"{pair.rainy} is {height}x{width}, expected at least {least}x{least}"
        return too_small if min(height, width) < least else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        refuse("images that cannot be used; mend or move away", [*filter(None, pool.map(problem, pairs))])


def read_pair(pair: ImagePair, read: Callable[[Path], Frame] = read_image) -> tuple[Frame, Frame]:
    """The rainy and the clean image, uint8 (H, W, 3) BGR. Raises ImageFormatError, also if their sizes differ."""
    rainy, clean = read(pair.rainy), read(pair.clean)
    if rainy.shape != clean.shape:
        sizes = ["x".join(map(str, image.shape[:2])) for image in (rainy, clean)]
        raise ImageFormatError(f"{pair.rainy} is {sizes[0]}, its clean image {pair.clean} is {sizes[1]}")
    return rainy, clean


def refuse(title: str, problems: Sequence[str]) -> None:
    """Raise ImageFormatError with ``problems`` listed under ``title``, at most 20 of them; without any do nothing."""
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ImageFormatError("\n  ".join([f"{title}:", *problems[:_MOST_PROBLEMS], *more]))


def images_in(folder: Path) -> list[Path]:
    """The image files that lie in ``folder`` itself, hidden ones passed over, in natural order."""
    return [path for path in _visible(folder) if is_image(path) and path.is_file()]


def _visible(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(found, key=lambda path: (natural_key(path.name), path.name))


def _both_sides(folder: Path) -> tuple[list[Path], list[Path]]:
    """The rainy and the clean images of a data set, none where it is in no known layout.

    Either side is a folder of a known name, or all files of a known form: the rainy ones first by their folder,
    the clean ones by their files, for a flat data set may lie beside a folder of clean photographs.
    """
    flat = images_in(folder)
    rainy, clean = ([path for path in flat if form.fullmatch(path.stem.lower())] for form in (_RAINY_STEM, _CLEAN_STEM))
    folders = [path for path in _visible(folder) if path.is_dir()]
    of_rainy, of_clean = ([path for path in folders if path.name.lower() in names] for names in (_RAINY, _CLEAN))
    if len(of_rainy) > 1 or len(of_clean) > 1:
        return [], []
    return (images_in(of_rainy[0]) if of_rainy else rainy), (clean or (images_in(of_clean[0]) if of_clean else []))
