"""What is scored: the rainy input itself, a network, or the images that another program wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sapnet import Derainer
from sapnet.errors import ImageFormatError
from sapnet.media.sources import read_image
from sapnet.streaks import DEFAULT_MASK_THRESHOLD, streak_mask
from training.datasets.paired import ImagePair, images_in, refuse, sizes_or_problems
from training.metrics import Image, Plane, streak_strength


@dataclass(frozen=True)
class Method:
    """Something that derains the rainy images of pairs.

    name: in tables. derain: a pair and its rainy image, uint8 (H, W, 3) BGR -> the derained image and the streak mask,
    uint8 (H, W), 0 or 255. source: the weights or folder as given. mask_threshold: of ``streaks``. stages: recurrences
    that are run. backend: such as ``openvino fp32``. The last four are None where there is no such thing.
    """

    name: str
    derain: Callable[[ImagePair, Image], tuple[Image, Plane]]
    source: str | None = None
    mask_threshold: int | None = None
    stages: int | None = None
    backend: str | None = None


def rainy_input() -> Method:
    """Does nothing and sees no streaks: what every other method must beat."""
    return Method("rainy input", lambda _, rainy: (rainy, np.zeros(rainy.shape[:2], np.uint8)))


def network(derainer: Derainer, name: str = "derained") -> Method:
    """The weights and backend of an open Derainer, and its mask threshold."""

    def derain(_: ImagePair, rainy: Image) -> tuple[Image, Plane]:
        derained = derainer([rainy])[0]
        return derained.image, derained.streak_mask

    backend = f"{derainer.backend_name} {derainer.precision}"
    return Method(name, derain, derainer.weights, derainer.mask_threshold, derainer.stages, backend)


def results(
    folder: Path, pairs: Sequence[ImagePair], name: str = "results", mask_threshold: int = DEFAULT_MASK_THRESHOLD
) -> Method:
    """Derained images that lie in ``folder`` under their rainy images' names, the suffix free.

    The mask is where luma(rainy) - luma(result), rounded, is above ``mask_threshold``. All images are read once
    beforehand: raises ImageFormatError that lists what is missing, unreadable or of the wrong size.
    """
    paths = _find_results(folder, pairs)

    def derain(pair: ImagePair, rainy: Image) -> tuple[Image, Plane]:
        derained = read_image(paths[pair])
        return derained, streak_mask(streak_strength(rainy, derained), mask_threshold)

    return Method(name, derain, str(folder), mask_threshold)


def _find_results(folder: Path, pairs: Sequence[ImagePair]) -> Mapping[ImagePair, Path]:
    if not folder.is_dir():
        raise ImageFormatError(f"{folder}: no such folder of results")
    by_name = {key: path for path in images_in(folder) for key in (path.stem.lower(), path.name)}
    found = {
        pair: path
        for pair in pairs
        if (path := by_name.get(pair.rainy.name) or by_name.get(pair.rainy.stem.lower())) is not None
    }
    problems = [f"no result for {pair.rainy.name}" for pair in pairs if pair not in found]
    refuse(f"{folder} lacks results; name them as the rainy images", problems)
    sizes = sizes_or_problems(list(found.values()))
    expected = sizes_or_problems([pair.clean for pair in found])
    problems = [
        got if isinstance(got, str) else f"{path} is {_say(got)}, {pair.clean} is {_say(wanted)}"
        for (pair, path), got, wanted in zip(found.items(), sizes, expected, strict=True)
        if got != wanted
    ]
    refuse(f"{folder} holds results that cannot be scored", problems)
    return found


def _say(size: tuple[int, int] | str) -> str:
    return size if isinstance(size, str) else f"{size[0]}x{size[1]}"
