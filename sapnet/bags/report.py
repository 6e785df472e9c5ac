"""The report of a derained recording: its figures, kept as JSON beside the recording, and a page that shows them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import cv2
import numpy as np

import sapnet
from sapnet.bags.open import open_recording
from sapnet.bags.recording import Recording
from sapnet.bags.types import COMPRESSED_IMAGE, IMAGE, decode
from sapnet.errors import BagError, ImageFormatError
from sapnet.files import read_json, replacing
from sapnet.images.codecs import compress
from sapnet.images.frame import Frame

SAMPLES = 6  # frames of each camera on the page, before and after
MAX_WIDTH = 960  # of these pictures
JPEG_QUALITY = 85
QUANTILES = (50, 95, 99)
_MASK_BGR = (32, 160, 255)
_MAX_POINTS = 300
_PAGE = Path(__file__).parent / "page"


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
        for name, value in vars(other).items():
            if not isinstance(value, str):
                setattr(self, name, getattr(self, name) + value)

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

    @property
    def frames(self) -> int:
        """Derained frames of all cameras."""
        return sum(camera.derained_frames for camera in self.cameras)

    def add(self, other: BagReport) -> None:
        """Add the result for the part of the recording that follows."""
        for camera, more in zip(self.cameras, other.cameras, strict=True):
            camera.add(more)
        self.seconds += other.seconds
        self.notes += other.notes

    @staticmethod
    def from_json(values: dict[str, Any]) -> BagReport:
        """The inverse of ``dataclasses.asdict``. Raises KeyError or TypeError if the values are of something else."""
        cameras = [CameraReport(**_known(CameraReport, camera)) for camera in values["cameras"]]
        return BagReport(**_known(BagReport, values) | {"cameras": cameras})


def _known(kind: type[CameraReport | BagReport], values: dict[str, Any]) -> dict[str, Any]:
    """Without what earlier versions wrote beside the fields of now."""
    return {field.name: values[field.name] for field in fields(kind)}


def read_report(path: Path) -> BagReport:
    """Read a report. Raises SapnetError if it is damaged, OSError."""
    advice = "derain the recording again with --overwrite"
    values = read_json(path, advice)
    try:
        return BagReport.from_json(values)
    except (KeyError, TypeError) as err:
        raise BagError(f"{path} is damaged (it holds no report: {err!r}); {advice}") from err


def write_html(report: BagReport, path: Path) -> None:
    """Write the page to ``path``: one HTML file that loads nothing. It is replaced atomically.

    Sample frames are read from the report's input and output; the page says so if these cannot be read any more.
    Raises SapnetError if the page cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined)
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
            samples_of=lambda camera: _samples(camera, bags, start_ns) if bags else (),
            curve_of=lambda camera, values: _curve(camera, values, start_ns),
            version=sapnet.__version__,
        )
        # Names in a recording may hold surrogates, which UTF-8 has no place for.
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(page)


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices below ``length``, evenly spread, the first and the last among them."""
    return sorted({int(place) for place in np.linspace(0, length - 1, min(length, count)).round()})


def _samples(camera: CameraReport, bags: tuple[Recording, Recording], start_ns: int) -> Iterator[dict[str, Any]]:
    """Frames from the first to the last, as data URIs, read one at a time; those that cannot be decoded are left out.

    seconds: from the start. width, height: of the pictures.
    """
    source, output = bags
    for index in spread(len(camera.times_ns), SAMPLES):
        time_ns = camera.times_ns[index]
        rainy, derained = _frame(source, camera.topic, time_ns), _frame(output, camera.derained, time_ns)
        if rainy is None or derained is None:
            continue
        mask = _frame(output, camera.streak_mask, time_ns)
        yield {
            "seconds": (time_ns - start_ns) / 1e9,
            "rain_score": camera.rain_scores[index],
            "width": rainy.shape[1],
            "height": rainy.shape[0],
            "rainy": _data_uri("jpeg", compress(rainy, "jpeg", JPEG_QUALITY)),
            "derained": _data_uri("jpeg", compress(derained, "jpeg", JPEG_QUALITY)),
            "mask": mask is not None and _data_uri("png", cv2.imencode(".png", _tinted(mask))[1]),
        }


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
    """BGRA uint8 (H, W, 4): a colour, as dense as the mask uint8 (H, W, 3) is bright."""
    return np.dstack((np.full_like(mask, _MASK_BGR), mask[..., 0]))


def _data_uri(kind: str, content: Frame) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.tobytes()).decode()}"


def _curve(camera: CameraReport, values: Sequence[float], start_ns: int) -> dict[str, Any] | None:
    """Values over time in a square of 0 to 100, y downwards; None without values.

    line: SVG points, at most _MAX_POINTS, each the mean of a run of frames. top: of the vertical axis, which begins
    at 0. first_s, last_s: ends of the horizontal axis.
    """
    if not values:
        return None
    seconds = (np.asarray(camera.times_ns, np.int64) - start_ns) / 1e9
    runs = np.array_split(np.stack((seconds, values)), min(len(values), _MAX_POINTS), axis=1)
    first_s, last_s, top = float(seconds[0]), float(seconds[-1]), max(values) or 1.0
    across = 100 / ((last_s - first_s) or 1.0)
    points = (run.mean(axis=1) for run in runs)
    line = " ".join(f"{(x - first_s) * across:.2f},{100 - y / top * 100:.2f}" for x, y in points)
    return {"line": line, "top": top, "first_s": first_s, "last_s": last_s}


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"
