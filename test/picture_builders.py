"""Pictures that lossy codecs keep nearly as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from sapnet.images.frame import Frame


def flat(value: Any, height: int, width: int) -> Frame:
    """Of one grey level, or one colour in BGR."""
    return np.full((height, width, 3), value, np.uint8)


def gradients(count: int, height: int = 48, width: int = 64) -> list[Frame]:
    """In motion."""
    rows, columns = np.mgrid[:height, :width]
    return [np.stack([rows * 4, columns * 3, 90 + rows + columns + i], 2).astype(np.uint8) for i in range(count)]
