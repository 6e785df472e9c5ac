"""Rain on clean frames, deraining, and what a detector finds on clean, rainy and derained frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet import Derainer
from sapnet.errors import SapnetError
from sapnet.images.frame import Frame
from sapnet.media.sequence import limit_width
from sapnet.media.sources import open_source
from sapnet.rain import RainSynthesizer
from training.detection_metrics import count, match
from training.detector import Detections, Detector, Floats

CLEAN, RAINY = "clean", "rainy"
_SHOWN_FRAMES = 6

LEGEND = "green: again, red: missed, yellow: new"

_FOUND, _MISSED, _NEW = (80, 210, 80), (70, 70, 245), (40, 200, 250)
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.55
# Twice the width of a contact sheet's cell, so that lines and letters come out crisp.
_WIDTH = 640


@dataclass(frozen=True)
class Setting:
    """What is measured.

    clips: images, folders of them, videos. stride: every Nth frame of a video is taken, and all images.
    rain: a preset of ``sapnet.rain``. max_width: wider frames are scaled down before it rains; 0 for none.
    confidence: what counts as detected. iou: overlap from which two objects are the same.
    """

    clips: tuple[Path, ...]
    rain: str = "heavy"
    seeds: tuple[int, ...] = (1, 2, 3)
    stride: int = 4
    max_width: int = 0
    confidence: float = 0.4
    iou: float = 0.5

    def __post_init__(self) -> None:
        for name in ("confidence", "iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"got {name} {getattr(self, name)}, expected a number above 0, at most 1")
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"got seeds {self.seeds}, expected different whole numbers from 0")

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Names and clean frames, uint8 (H, W, 3) BGR; the same each time. Raises SapnetError."""
        for source in map(open_source, self.clips):
            for name, frame in islice(source, None, None, self.stride if source.fps else 1):
                clip = source.path.name
                yield clip if name == clip else f"{clip} {name}", limit_width(frame, self.max_width)


@dataclass
class Outcome:
    """What was found.

    clean_detections: how many on each clean frame. counts: version of the frames (clean, rainy, derained by ...)
    -> ``detection_metrics.count`` of each frame, (frames, 4), its seeds added up.
    pictures, labels: rows of a contact sheet, a few frames under the first seed's rain.
    """

    clean_detections: list[int]
    counts: dict[str, Floats]
    pictures: list[dict[str, Frame]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def run_experiment(
    setting: Setting,
    detector: Detector,
    derainers: Mapping[str, Derainer],
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Detect on the clean frames, then on the same in rain and derained.

    derainers: by the names that their versions shall have. on_frame: told how many frames are done, and of how many.
    Raises SapnetError, also where nothing is found on the clean frames.
    """
    expected = [detector(clean, setting.confidence) for _, clean in setting.frames()]
    found_on = [index for index, objects in enumerate(expected) if len(objects)]
    if not found_on:
        raise SapnetError(
            f"the detector finds nothing on the {len(expected)} clean frames at confidence {setting.confidence}; "
            "give clips of objects that it knows"
        )
    counts: dict[str, Floats] = {name: np.zeros((len(expected), 4)) for name in (CLEAN, RAINY, *derainers)}
    outcome = Outcome([len(objects) for objects in expected], counts)
    shown = {found_on[at] for at in np.linspace(0, len(found_on) - 1, _SHOWN_FRAMES).round().astype(int)}
    rain = cache(partial(RainSynthesizer, setting.rain))
    on_frame(0, len(expected))
    for index, ((name, clean), objects) in enumerate(zip(setting.frames(), expected, strict=True)):
        for seed in setting.seeds:
            rainy = rain(*clean.shape[:2], seed).add(clean, index)[0]
            frames = {CLEAN: clean, RAINY: rainy, **{by: derain([rainy])[0].image for by, derain in derainers.items()}}
            found = {version: detector(frame, setting.confidence) for version, frame in frames.items()}
            tallies = {version: count(detections, objects, setting.iou) for version, detections in found.items()}
            for version, tally in tallies.items():
                counts[version][index] += tally
            if index in shown and seed == setting.seeds[0]:
                draw = partial(draw_detections, expected=objects, names=detector.names, iou=setting.iou)
                outcome.pictures.append({version: draw(frames[version], found[version]) for version in frames})
                outcome.labels.append(_label(name, tallies))
        on_frame(index + 1, len(expected))
    return outcome


def _label(name: str, tallies: Mapping[str, Floats]) -> str:
    return f"{name}: " + "; ".join(
        f"{version} {matched:.0f} of {expected:.0f}" + (f" and {found - matched:.0f} new" if found > matched else "")
        for version, (expected, found, matched, _) in tallies.items()
        if version != CLEAN
    )


def draw_detections(frame: Frame, found: Detections, expected: Detections, names: Sequence[str], iou: float) -> Frame:
    """A copy of the frame, 640 columns wide, with the boxes of found and missed objects; see ``LEGEND``."""
    scale = _WIDTH / frame.shape[1]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cast(Frame, cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method))
    partners = match(found, expected, iou).tolist()
    objects = [(expected, index, _MISSED) for index in range(len(expected)) if index not in partners]
    objects += [(found, index, _NEW if partner < 0 else _FOUND) for index, partner in enumerate(partners)]
    written = np.zeros(picture.shape[:2], np.bool_)
    for detections, index, colour in objects:
        left, top, right, bottom = (round(side) for side in (detections.boxes[index] * scale).tolist())
        cv2.rectangle(picture, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
        text = f"{names[detections.classes[index]]} {detections.confidences[index]:.2f}"
        _write(picture, written, text, left, top - 4, colour)
    return picture


def _write(
    picture: Frame, written: NDArray[np.bool_], text: str, left: int, bottom: int, colour: tuple[int, int, int]
) -> None:
    """A line of text, unless it would cover another, which ``written`` marks."""
    (width, height), _ = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    left, bottom = max(0, min(left, picture.shape[1] - width)), max(height, bottom)
    place = written[bottom - height : bottom, left : left + width]
    if not place.any():
        place[:] = True
        cv2.putText(picture, text, (left, bottom), _FONT, _FONT_SCALE, colour, 1, cv2.LINE_AA)
