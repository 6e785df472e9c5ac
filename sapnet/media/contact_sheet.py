"""Contact sheets and side-by-side videos of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from sapnet.images.frame import Frame
from sapnet.media.pictures import write_image
from sapnet.media.videos import write_video

_FONT = cv2.FONT_HERSHEY_DUPLEX
_PAPER = (24, 22, 20)
_INK = (235, 232, 228)
_DIM_INK = (150, 145, 140)
# Contact sheets: a cell's longer side, space around cells, heights of titles and labels, in pixels.
_CELL = 320
_GAP = 10
_TITLE = 40
_LABEL = 36


def contact_sheet(rows: Sequence[Mapping[str, Frame]], path: Path, labels: Sequence[str]) -> None:
    """Write rows of pictures as one PNG, titled by their names.

    rows: name -> uint8 (H, W, 3) BGR or (H, W); columns stand in the order of the names' first appearance, and a
    picture that a row lacks is left blank. labels: one line under each row. Raises SapnetError.
    """
    titles = list(dict.fromkeys(name for row in rows for name in row))
    strips = [_titles(titles, _CELL)]
    for row, label in zip(rows, labels, strict=True):
        scale = _CELL / max(max(picture.shape[:2]) for picture in row.values())
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        pictures = {
            name: cast(Frame, cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method))
            for name, picture in row.items()
        }
        height = max(picture.shape[0] for picture in pictures.values())
        strips.append(_row([pictures.get(title, _paper(1, 1)) for title in titles], height, _CELL))
        width = strips[0].shape[1] - 2 * _GAP
        strips.append(_row([_text(label, _LABEL, width, 0.45, _DIM_INK)], _LABEL, width))
    write_image(path, np.vstack(strips))


@contextmanager
def side_by_side_video(path: Path, fps: float, height: int, width: int) -> Iterator[Callable[[Frame, Frame], None]]:
    """What appends a pair of rainy and derained frames, uint8 (H, W, 3) BGR, to a video with their titles.

    The video is at ``path`` once the ``with`` block has ended well. height, width: the largest of the frames to come;
    smaller ones are centred. Raises SapnetError.
    """
    height, width = height + height % 2, width + width % 2  # videos have even sides
    titles = _titles(("rainy", "derained"), width)
    with write_video(path, fps) as video:
        yield lambda rainy, derained: video.write(np.vstack([titles, _row((rainy, derained), height, width)]))


def _titles(titles: Sequence[str], width: int) -> Frame:
    """A title above each of a row's cells."""
    return _row([_text(title, _TITLE, width, 0.62, _INK) for title in titles], _TITLE, width)


def _row(pictures: Sequence[Frame], height: int, width: int) -> Frame:
    """Pictures, BGR or gray, in the middle of cells of one size, with a gap before, between and after them."""
    row = _paper(height, len(pictures) * (width + _GAP) + _GAP)
    for index, picture in enumerate(pictures):
        tall, wide = picture.shape[:2]
        top, left = (height - tall) // 2, _GAP + index * (width + _GAP) + (width - wide) // 2
        row[top : top + tall, left : left + wide] = picture if picture.ndim == 3 else picture[..., None]
    return row


def _text(text: str, height: int, width: int, scale: float, ink: tuple[int, int, int]) -> Frame:
    """A strip of paper with one line of text in the middle of its height; OpenCV's fonts hold ASCII alone."""
    strip, printable = _paper(height, width), text.encode("ascii", "replace").decode()
    (_, tall), _ = cv2.getTextSize(printable, _FONT, scale, 1)
    cv2.putText(strip, printable, (0, (height + tall) // 2), _FONT, scale, ink, 1, cv2.LINE_AA)
    return strip


def _paper(height: int, width: int) -> Frame:
    return np.full((height, width, 3), _PAPER, np.uint8)
