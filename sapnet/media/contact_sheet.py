"""Contact sheets and side-by-side videos of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
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
# Contact sheets: a cell's longer side, space between cells, heights of titles and labels, in pixels.
_CELL = 320
_GAP = 10
_TITLE = 40
_LABEL = 26


def contact_sheet(rows: Sequence[Mapping[str, Frame]], path: Path, labels: Sequence[str] = ()) -> None:
    """Write rows of pictures as one PNG, titled by their names.

    rows: name -> uint8 (H, W, 3) BGR or (H, W); columns stand in the order of the names' first appearance, and a
    picture that a row lacks is left blank. labels: one line under each row. Raises SapnetError.
    """
    titles = list(dict.fromkeys(name for row in rows for name in row))
    lefts = {title: _GAP + index * (_CELL + _GAP) for index, title in enumerate(titles)}
    width = _GAP + len(titles) * (_CELL + _GAP)
    strips = [_paper(_TITLE, width)]
    for title, left in lefts.items():
        _write(strips[0], title, left, _TITLE // 2, 0.62, _INK)
    for row, label in zip(rows, chain(labels, repeat("")), strict=False):
        shown = _scale_row(row)
        height = max(picture.shape[0] for picture in shown.values())
        strip = _paper(height + _LABEL + _GAP, width)
        for title, picture in shown.items():
            _centre(strip[:height, lefts[title] : lefts[title] + _CELL], picture)
        _write(strip, label, _GAP, height + _LABEL // 2, 0.45, _DIM_INK)
        strips.append(strip)
    write_image(path, np.vstack(strips))


@contextmanager
def side_by_side_video(path: Path, fps: float, height: int, width: int) -> Iterator[Callable[[Frame, Frame], None]]:
    """What appends a pair of rainy and derained frames, uint8 (H, W, 3) BGR, to a video with their titles.

    The video is at ``path`` once the ``with`` block has ended well. height, width: the largest of the frames to come;
    smaller ones are centred. Raises SapnetError.
    """
    height, width = height + height % 2, width + width % 2  # videos have even sides
    with write_video(path, fps) as video:

        def add(rainy: Frame, derained: Frame) -> None:
            canvas = _paper(height + _TITLE, 2 * width + _GAP)
            for start, title, frame in ((0, "rainy", rainy), (width + _GAP, "derained", derained)):
                _write(canvas, title, start + _GAP, _TITLE // 2, 0.62, _INK)
                _centre(canvas[_TITLE:, start : start + width], frame)
            video.write(canvas)

        yield add


def _scale_row(row: Mapping[str, Frame]) -> dict[str, Frame]:
    """Pictures of a row at one scale, gray ones as BGR, the longest side of all at ``_CELL`` pixels."""
    longest = max(max(picture.shape[:2]) for picture in row.values())
    scale = _CELL / longest
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = {}
    for title, picture in row.items():
        coloured = picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
        shown[title] = cast(Frame, cv2.resize(coloured, None, fx=scale, fy=scale, interpolation=method))
    return shown


def _paper(height: int, width: int) -> Frame:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _centre(cell: Frame, picture: Frame) -> None:
    top, left = (cell.shape[0] - picture.shape[0]) // 2, (cell.shape[1] - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _write(sheet: Frame, text: str, left: int, middle: int, scale: float, ink: tuple[int, int, int]) -> None:
    """One line of text, its middle at the row ``middle``; OpenCV's fonts hold ASCII alone."""
    printable = text.encode("ascii", "replace").decode()
    (_, height), _ = cv2.getTextSize(printable, _FONT, scale, 1)
    cv2.putText(sheet, printable, (left, middle + height // 2), _FONT, scale, ink, 1, cv2.LINE_AA)
