"""Pairs of a rainy and a clean image, in the layouts that data sets are published in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sapnet.errors import ImageFormatError
from sapnet.files import natural_key
from sapnet.images.frame import MIN_SIDE, Frame
from sapnet.media.sources import IMAGE_SUFFIXES, read_image

# Names of folders, lower case.
_RAINY = ("rainy", "rain", "input", "rainy_image")
_CLEAN = ("clean", "norain", "target", "groundtruth", "ground_truth", "gt")
# Rainy images and clean ones that share a folder, by their stems; streak layers and the like lie there, too.
_RAINY_STEM = re.compile(r"rain[-_]?\d+(x\d+)?|.+_in")
_CLEAN_STEM = re.compile(r"norain[-_]?\d+|.+_gt")
# Stem of a rainy image -> stem of its clean one. The rule that finds most clean images holds for the whole set.
_RULES = tuple(
    (re.compile(rainy), clean)
    for rainy, clean in (
        (r"(.+)", r"\1"),
        (r"(?:no)?(rain[-_]?\d+)(?:x\d+)?", r"no\1"),  # Rain100L and H, RainTrainL and H
        (r"(.+)_in", r"\1_gt"),  # Rain12
        (r"(.+)_\d+", r"\1"),  # Rain1400 and Rain12600: 14 kinds of rain on each photograph
    )
)
_EXPECTED = (
    "expected rainy/ and clean/, input/ and target/, rainy_image/ and ground_truth/, rain-1.png and norain-1.png, "
    f"1_in.png and 1_GT.png, folders of such sets, or two folders given as RAINY{os.pathsep}CLEAN"
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
    and one of clean ones whose stems are equal; or two folders as ``RAINY:CLEAN`` (``os.pathsep``). Hidden files
    and files that are no images are passed over. A clean image may have several rainy ones.
    Raises ImageFormatError that lists every image without its counterpart and every stem that stands twice.
    """
    try:
        rainy, clean = _both_sides(Path(folder))
    except OSError as err:
        raise ImageFormatError(f"{folder} cannot be read ({err.strerror}); check its rights") from err
    partners = _partners(rainy, clean)
    problems = [f"{path}: no clean image of that name" for path in rainy if path not in partners]
    used = set(partners.values())
    problems += [f"{path}: no rainy image of that name" for path in clean if path not in used]
    problems += [*_twice(rainy), *_twice(clean)]
    refuse(f"{folder} does not pair up; mend, add or move away", problems)
    return [ImagePair(path.stem, path, partners[path]) for path in rainy]


def find_sets(folders: Iterable[str | Path]) -> dict[str, list[ImagePair]]:
    """The pairs of each data set in ``folders`` by its short name. Raises ImageFormatError."""
    names = short_names(str(each) for folder in folders for each in set_folders(Path(folder)))
    return {name: find_pairs(Path(folder)) for folder, name in names.items()}


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Weights or folders as given -> what tables call them: the ends of their paths, as long as it takes to differ."""
    parts = {source: _name_parts(source) for source in sources}
    for depth in range(1, max(map(len, parts.values()), default=1) + 1):
        names = {source: "/".join(some[-depth:]) for source, some in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _name_parts(source: str) -> tuple[str, ...]:
    path = Path(source)
    if path.is_dir():
        return path.resolve().parts
    return path.resolve().with_suffix("").parts if path.is_file() else (source,)


def set_folders(folder: Path) -> list[Path]:
    """``folder`` as ``find_pairs`` takes it; where it is no data set but holds some, those, in natural order.

    Folders beside them that hold no pairs, such as one of clean photographs, are passed over.
    """
    with suppress(OSError):  # find_pairs says what is wrong
        if folder.is_dir() and _layout(folder) is None:
            inside = sorted(_folders(folder), key=lambda path: natural_key(path.name))
            return [path for path in inside if _layout(path) is not None] or [folder]
    return [folder]


def check_pairs(pairs: Sequence[ImagePair], least: int = MIN_SIDE) -> None:
    """``check_images`` of both images of every pair, which must be of one size, too."""
    check_images([path for pair in pairs for path in (pair.rainy, pair.clean)], least, pairs)


def check_images(paths: Iterable[Path], least: int, pairs: Sequence[ImagePair] = ()) -> None:
    """Read every image. least: pixels that both sides must have. pairs: of these images.

    Raises ImageFormatError that lists the unreadable ones, those too small, and the pairs of unequal sizes.
    """
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = dict(zip(paths, pool.map(_size_or_problem, paths), strict=True))
    problems = []
    for path, size in sizes.items():
        if isinstance(size, str):
            problems.append(size)
        elif min(size) < least:
            problems.append(f"{path} is {size[0]}x{size[1]}, expected at least {least}x{least}")
    for pair in pairs:
        rainy, clean = sizes[pair.rainy], sizes[pair.clean]
        if isinstance(rainy, tuple) and isinstance(clean, tuple) and rainy != clean:
            problems.append(_unequal(pair, rainy, clean))
    refuse("images that cannot be used; mend or move away", problems)


def read_pair(pair: ImagePair, read: Callable[[Path], Frame] = read_image) -> tuple[Frame, Frame]:
    """The rainy and the clean image, uint8 (H, W, 3) BGR, of one size. Raises ImageFormatError."""
    rainy, clean = read(pair.rainy), read(pair.clean)
    if rainy.shape != clean.shape:
        raise ImageFormatError(_unequal(pair, rainy.shape, clean.shape))
    return rainy, clean


def refuse(title: str, problems: Sequence[str]) -> None:
    """Raise ImageFormatError with ``problems`` listed under ``title``, at most 20 of them; without any do nothing."""
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ImageFormatError("\n  ".join([f"{title}:", *problems[:_MOST_PROBLEMS], *more]))


def images_in(folder: Path) -> list[Path]:
    """The image files that lie in ``folder`` itself, hidden ones passed over, in natural order."""
    images = [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return sorted(images, key=lambda path: natural_key(path.name))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _both_sides(folder: Path) -> tuple[list[Path], list[Path]]:
    """The rainy and the clean images of a data set. Raises ImageFormatError where that cannot be told."""
    if not folder.is_dir():
        rainy_folder, _, clean_folder = map(Path, str(folder).partition(os.pathsep))
        if not (rainy_folder.is_dir() and clean_folder.is_dir()):
            raise ImageFormatError(f"{folder}: no such folder; {_EXPECTED}")
        return images_in(rainy_folder), images_in(clean_folder)
    if both := _layout(folder):
        return both
    inside = (f"{path.name}/ with {len(images_in(path))}" for path in _folders(folder))
    holds = ", ".join([f"{len(images_in(folder))} images", *inside])
    raise ImageFormatError(f"{folder}: no pairs of images found, it holds {holds}; {_EXPECTED}")


def _layout(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """The rainy and the clean images of a folder in a known layout."""
    flat_rainy, flat_clean = _flat(folder)
    inside = {path: images for path in _folders(folder) if (images := images_in(path))}
    rainy = [path for path in inside if path.name.lower() in _RAINY]
    clean = [path for path in inside if path.name.lower() in _CLEAN]
    others = [path for path in inside if path not in rainy + clean]
    if len(rainy) == 1 and not clean and flat_clean:
        return inside[rainy[0]], flat_clean
    # A flat data set beside a folder of clean photographs is one of its own.
    if len(inside) == 2 and len(others) == 1 and not all(_flat(others[0])):
        rainy, clean = rainy or others, clean or others
    if len(rainy) == len(clean) == 1:
        return inside[rainy[0]], inside[clean[0]]
    if not rainy and not clean and flat_rainy and flat_clean:
        return flat_rainy, flat_clean
    return None


def _flat(folder: Path) -> tuple[list[Path], list[Path]]:
    """The rainy and the clean ones, by their names, of the images in ``folder`` itself."""
    images = images_in(folder)
    rainy, clean = (
        [path for path in images if stem.fullmatch(path.stem.lower())] for stem in (_RAINY_STEM, _CLEAN_STEM)
    )
    return rainy, clean


def _partners(rainy: Iterable[Path], clean: Iterable[Path]) -> dict[Path, Path]:
    """Rainy image -> its clean image, for those that have one."""
    by_stem = {path.stem.lower(): path for path in clean}
    matches: list[dict[Path, Path]] = []
    for pattern, replacement in _RULES:
        stems = {path: match.expand(replacement) for path in rainy if (match := pattern.fullmatch(path.stem.lower()))}
        matches.append({path: by_stem[stem] for path, stem in stems.items() if stem in by_stem})
    return max(matches, key=len)


def _twice(paths: Iterable[Path]) -> Iterator[str]:
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(path.stem.lower(), path)
        if other is not path:
            yield f"{path}: {other.name} lies beside it"


def _size_or_problem(path: Path) -> tuple[int, int] | str:
    try:
        height, width, _ = read_image(path).shape
        return height, width
    except ImageFormatError as err:
        return str(err)
    except OSError as err:
        return f"{path} cannot be read ({err.strerror})"


def _unequal(pair: ImagePair, rainy: tuple[int, ...], clean: tuple[int, ...]) -> str:
    return f"{pair.rainy} is {rainy[0]}x{rainy[1]}, its clean image {pair.clean} is {clean[0]}x{clean[1]}"
