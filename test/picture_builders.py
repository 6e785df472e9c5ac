"""Pictures that lossy codecs keep nearly as they are, and pairs on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sapnet.images.frame import Frame
from sapnet.media.pictures import write_image


def flat(value: Any, height: int, width: int) -> Frame:
    """Of one grey level, or one colour in BGR."""
    return np.full((height, width, 3), value, np.uint8)


def gradients(count: int, height: int = 48, width: int = 64) -> list[Frame]:
    """In motion."""
    rows, columns = np.mgrid[:height, :width]
    return [np.stack([rows * 4, columns * 3, 90 + rows + columns + i], 2).astype(np.uint8) for i in range(count)]


def write_pair(folder: Path, name: str, rainy: Frame, clean: Frame) -> None:
    """A pair of a data set: ``rainy/NAME`` and ``clean/NAME``."""
    write_image(folder / "rainy" / name, rainy)
    write_image(folder / "clean" / name, clean)
