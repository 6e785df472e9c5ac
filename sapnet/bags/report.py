"""The report of a derained recording: its figures, kept as JSON beside the recording, and a page that shows them."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

import sapnet
from sapnet.bags.open import open_recording
from sapnet.bags.recording import Recording
from sapnet.bags.types import COMPRESSED_IMAGE, IMAGE, decode
from sapnet.errors import BagError, ImageFormatError, first_line
from sapnet.files import read_json, replacing
from sapnet.images.codecs import compress
from sapnet.images.frame import Frame

MAX_WIDTH = 960  # of pictures on the page
JPEG_QUALITY = 85
QUANTILES = (50, 95, 99)
_MASK_BGR = (32, 160, 255)
_MAX_POINTS = 300
_PAGE = Path(__file__).parent / "page"
_ADVICE = "derain the recording again with --overwrite"

Numbers = NDArray[np.float64]


@dataclass
class CameraReport:
    """The result for one camera.

    topic, derained, streak_mask: topics of the source and of the outputs. frames: all of them; derained_frames,
    skipped by the stride and unreadable are parts of these. times_ns, rain_scores, latencies_ms: log time, score
    (0 to 1) and share of the network's time, for each derained frame.
    """

    topic: str
    derained: str
    streak_mask: str
    frames: int = 0
    derained_frames: int = 0
    skipped: int = 0
    unreadable: int = 0
    times_ns: list[int] = field(default_factory=list)
    rain_scores: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, other: CameraReport) -> None:
        """Add the result for the frames that follow."""
        self.frames += other.frames
        self.derained_frames += other.derained_frames
        self.skipped += other.skipped
        self.unreadable += other.unreadable
        self.times_ns += other.times_ns
        self.rain_scores += other.rain_scores
        self.latencies_ms += other.latencies_ms

    @property
    def rain_score(self) -> float | None:
        """The mean over all derained frames; None without one."""
        return fmean(self.rain_scores) if self.rain_scores else None

    @property
    def quantiles_ms(self) -> list[float]:
        """Latencies at QUANTILES; empty without a derained frame."""
        return [float(value) for value in np.percentile(self.latencies_ms, QUANTILES)] if self.latencies_ms else []


@dataclass
class BagReport:
    """The result of deraining a recording. messages: written. seconds: time spent on it, over all runs.

    notes: problems found in the recording or its images, a sentence each.
    is_partial: only a part of the recording could be read, and the output holds that part.
    network: weights, backend, precision, stages and device. job: input files, options and network.
    backends: what ran, from which log time on: more than one entry if it changed.
    """

    input: str
    output: str
    cameras: list[CameraReport]
    messages: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    network: dict[str, str | int] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    is_partial: bool = False
    backends: list[tuple[int, str]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Derained frames of all cameras."""
        return sum(camera.derained_frames for camera in self.cameras)

    def add(self, other: BagReport) -> None:
        """Add the result for the part of the recording that follows."""
        for camera, more in zip(self.cameras, other.cameras, strict=True):
            camera.add(more)
        self.messages += other.messages
        self.seconds += other.seconds
        self.notes += other.notes
        for time_ns, backend in other.backends:
            self.note_backend(time_ns, backend)

    def note_backend(self, time_ns: int, backend: str) -> None:
        """Record which backend derained a frame, if it is another one than before."""
        if not self.backends or self.backends[-1][1] != backend:
            self.backends.append((time_ns, backend))

    @staticmethod
    def from_json(values: dict[str, Any]) -> BagReport:
        """The inverse of ``dataclasses.asdict``."""
        cameras = [CameraReport(**camera) for camera in values["cameras"]]
        backends = [(time_ns, backend) for time_ns, backend in values["backends"]]
        return BagReport(**{**values, "cameras": cameras, "backends": backends})


def read_report(path: Path) -> BagReport:
    """Read a report. Raises BagError if it is damaged, OSError."""
    values = read_json(path, _ADVICE)
    try:
        return BagReport.from_json(values)
    except (TypeError, KeyError, AttributeError, ValueError) as err:
        raise BagError(f"{path} is damaged ({first_line(err)}); {_ADVICE}") from err


def write_html(report: BagReport, path: Path, samples: int = 6) -> None:
    """Write the page to ``path``: one HTML file that loads nothing. It is replaced atomically.

    samples: frames of each camera to show before and after, read from the report's input and output; the page says so
    if these cannot be read any more. Raises SapnetError if the page cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = _duration
    with ExitStack() as stack:
        notes = [*report.notes]
        bags: tuple[Recording, Recording] | None = None
        try:
            bags = stack.enter_context(open_recording(report.input)), stack.enter_context(open_recording(report.output))
        except BagError as err:
            notes.append(f"Sample frames cannot be shown: {err}.")
        start_ns = bags[0].start_ns if bags else min((c.times_ns[0] for c in report.cameras if c.times_ns), default=0)
        latencies = [latency for camera in report.cameras for latency in camera.latencies_ms]
        scores = [score for camera in report.cameras for score in camera.rain_scores]
        page = environment.get_template("report.html").generate(
            report=report,
            name=Path(report.input).name,
            notes=notes,
            latency_ms=float(np.median(latencies)) if latencies else None,
            rain_score=fmean(scores) if scores else None,
            quantiles=QUANTILES,
            samples_of=lambda camera: _samples(camera, bags, start_ns, samples) if bags else (),
            curve_of=lambda camera, values: _curve(camera, values, start_ns),
            version=sapnet.__version__,
        )
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(page)


class _Sample(NamedTuple):
    """A frame before and after, as data URIs. seconds: from the start. width, height: of the pictures."""

    seconds: float
    rain_score: float
    width: int
    height: int
    rainy: str
    derained: str
    streak_mask: str


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices below ``length``, evenly spread, the first and the last among them."""
    if count == 1:
        return [length // 2] if length else []
    return sorted({int(place) for place in np.linspace(0, length - 1, min(length, count)).round()})


def _samples(camera: CameraReport, bags: tuple[Recording, Recording], start_ns: int, count: int) -> Iterator[_Sample]:
    """Frames from the first to the last, read one at a time; those that cannot be decoded are left out."""
    source, output = bags
    for index in spread(min(len(camera.times_ns), len(camera.rain_scores)), count):
        time_ns = camera.times_ns[index]
        rainy, derained = _frame(source, camera.topic, time_ns), _frame(output, camera.derained, time_ns)
        if rainy is None or derained is None:
            continue
        mask = _frame(output, camera.streak_mask, time_ns)
        yield _Sample(
            (time_ns - start_ns) / 1e9,
            camera.rain_scores[index],
            rainy.shape[1],
            rainy.shape[0],
            _data_uri("jpeg", compress(rainy, "jpeg", JPEG_QUALITY).tobytes()),
            _data_uri("jpeg", compress(derained, "jpeg", JPEG_QUALITY).tobytes()),
            "" if mask is None else _data_uri("png", cv2.imencode(".png", _tinted(mask[..., 0]))[1].tobytes()),
        )


def _frame(bag: Recording, name: str, time_ns: int) -> Frame | None:
    """The frame of a topic at a log time, uint8 (H, W, 3) BGR, at most MAX_WIDTH wide."""
    topics = [topic for topic in bag.topics if topic.name == name and topic.type in (IMAGE, COMPRESSED_IMAGE)]
    for message in bag.messages(topics, time_ns, time_ns + 1):
        try:
            frame = decode(message).decoded.bgr
        except ImageFormatError:  # copied as it was
            continue
        scale = min(1.0, MAX_WIDTH / frame.shape[1])
        return cast(Frame, cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return None


def _tinted(mask: Frame) -> Frame:
    """BGRA uint8 (H, W, 4): a colour, as dense as the mask uint8 (H, W)."""
    tinted = np.empty((*mask.shape, 4), np.uint8)
    tinted[..., :3] = _MASK_BGR
    tinted[..., 3] = mask
    return tinted


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


class _Curve(NamedTuple):
    """Values over time in a square of 0 to 100, y downwards. line: of means. band: of lows and highs, as SVG points.

    top: of the vertical axis, which begins at 0. times: labels from left to right.
    """

    line: str
    band: str
    top: float
    times: list[str]


def _curve(camera: CameraReport, values: Sequence[float], start_ns: int) -> _Curve | None:
    """At most _MAX_POINTS points, each for a run of frames; None without values."""
    if not values:
        return None
    numbers = np.asarray(values, np.float64)
    starts = np.unique(np.linspace(0, len(numbers), min(len(numbers), _MAX_POINTS), endpoint=False).astype(int))
    means = np.add.reduceat(numbers, starts) / np.diff([*starts, len(numbers)])
    lows, highs = np.minimum.reduceat(numbers, starts), np.maximum.reduceat(numbers, starts)
    seconds = (np.asarray(camera.times_ns[: len(numbers)], np.int64) - start_ns) / 1e9
    first, last = float(seconds[0]), float(seconds[-1])
    across = (seconds[starts] - first) / ((last - first) or 1.0) * 100
    top = _round_up(float(highs.max()))
    line, above, below = ([*zip(across, 100 - some / top * 100, strict=True)] for some in (means, highs, lows))
    if len(line) == 1:
        line.append((100.0, line[0][1]))
    times = [_duration(first + share * (last - first)) for share in (0.0, 0.5, 1.0)]
    return _Curve(_points(line), _points([*above, *below[::-1]]), top, times if last > first else times[:1])


def _round_up(value: float) -> float:
    """The next number of one digit whose half is round too."""
    size = 10.0 ** math.floor(math.log10(max(value, 1e-3)))
    return next(step * size for step in (1, 2, 4, 6, 8, 10) if step * size >= value * (1 - 1e-9))


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def _printable(value: object) -> object:
    """Names in a recording may hold marks that turn the direction of writing, or no text at all."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)
