"""Clean photographs, and synthetic rain on them."""

from __future__ import annotations

from pathlib import Path

from sapnet.errors import ImageFormatError
from sapnet.media.sources import IMAGE_SUFFIXES
from sapnet.rain import RainConfig, RainSynthesizer
from training.datasets.augment import Image


def rain_on(clean: Image, rain: RainConfig | None, seed: int, image_height: float | None = None) -> tuple[Image, Image]:
    """``clean`` in this rain, and in its mist alone, which streaks stand out from; without rain both as it is.

    image_height: of the image that ``clean`` is a part of; its own if None.
    """
    if rain is None:
        return clean, clean
    height, width = clean.shape[:2]
    synthesizer = RainSynthesizer(rain, height, width, seed, image_height)
    rainy, _ = synthesizer.add(clean, 0)
    return rainy, synthesizer.add_mist(clean)


def find_photographs(folder: Path) -> list[Path]:
    """Image files under ``folder``, however deep, in the order of their names; hidden ones are passed over.

    Raises ImageFormatError without any.
    """
    found = sorted(path for path in folder.rglob("*") if _is_photograph(path.relative_to(folder)) and path.is_file())
    if not found:
        what = "holds no images" if folder.is_dir() else "no such folder"
        raise ImageFormatError(f"{folder}: {what}; expected a folder with clean photographs", kind="decode")
    return found


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)
