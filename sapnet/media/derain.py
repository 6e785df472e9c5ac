"""Derains images and videos from file to file, and keeps account of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from sapnet.derainer import Derainer
from sapnet.errors import ImageFormatError
from sapnet.images.frame import Frame, require_frame
from sapnet.media.plan import Job
from sapnet.media.sinks import open_video, write_image
from sapnet.media.sources import FrameSource, open_source

if TYPE_CHECKING:
    from rich.progress import Progress

DEFAULT_FPS = 25.0

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileReport:
    """What became of one input. rain_score: its frames' mean, 0 to 1."""

    input: str
    output: str
    streak_mask: str | None
    frames: int
    rain_score: float


@dataclass(frozen=True)
class Failure:
    """An input that cannot be read, and why."""

    input: str
    error: str


@dataclass
class Report:
    """What became of ``asked`` inputs. seconds: reading, deraining and writing, without loading the network."""

    asked: int
    files: list[FileReport] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def frames(self) -> int:
        return sum(file.frames for file in self.files)

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0

    def note_failure(self, job: Job, err: ImageFormatError) -> None:
        """Keep account of an input that cannot be read; where it is the only one, that is the end."""
        if self.asked == 1:
            raise err
        self.failed.append(Failure(str(job.source), str(err)))
        log.warning("skipped: %s", err)


def derain_files(derainer: Derainer, jobs: Sequence[Job], batch: int, progress: Progress) -> Report:
    """Do all jobs, images first, ``batch`` frames in memory at a time.

    An input that cannot be read is noted and the others go on. Raises SapnetError where the backend fails
    or an output cannot be written, ImageFormatError for the only input.
    """
    report = Report(len(jobs))
    images = [job for job in jobs if not job.is_video]
    videos = [job for job in jobs if job.is_video]
    task = progress.add_task("files", total=len(jobs))
    started = time.monotonic()
    for some in _batches(images, batch):
        _derain_images(derainer, some, report)
        progress.advance(task, len(some))
    for job in videos:
        try:
            report.files.append(_derain_video(derainer, job, batch, progress))
        except ImageFormatError as err:
            report.note_failure(job, err)
        progress.advance(task)
    report.seconds = time.monotonic() - started
    return report


def _derain_images(derainer: Derainer, jobs: Sequence[Job], report: Report) -> None:
    frames: dict[Job, Frame] = {}
    for job in jobs:
        try:
            [frames[job]] = _read(open_source(job.source))
        except ImageFormatError as err:
            report.note_failure(job, err)
    for job, derained in zip(frames, derainer(list(frames.values())), strict=True):
        write_image(job.output, derained.image)
        if job.mask:
            write_image(job.mask, derained.streak_mask)
        report.files.append(_file_report(job, [derained.rain_score]))


def _derain_video(derainer: Derainer, job: Job, batch: int, progress: Progress) -> FileReport:
    source = open_source(job.source)
    fps = source.fps or DEFAULT_FPS
    scores: list[float] = []
    with ExitStack() as stack:
        task = progress.add_task(job.source.name, total=source.count)
        stack.callback(progress.remove_task, task)
        output = stack.enter_context(open_video(job.output, fps))
        mask = stack.enter_context(open_video(job.mask, fps, lossless=True)) if job.mask else None
        for frames in _batches(_read(source), batch):
            for derained in derainer(frames):
                output.write(derained.image)
                if mask:
                    mask.write(derained.streak_mask)
                scores.append(derained.rain_score)
            progress.advance(task, len(frames))
    return _file_report(job, scores)


def _read(source: FrameSource) -> Iterator[Frame]:
    """The frames of one file. Raises ImageFormatError that names it."""
    try:
        for _, frame in source:
            yield require_frame(frame)
    except ImageFormatError as err:
        named = str(err) if str(source.path) in str(err) else f"{source.path}: {err}"
        raise ImageFormatError(named, err.kind) from err
    except OSError as err:
        raise ImageFormatError(f"{source.path} cannot be read ({err.strerror}); check its rights", "decode") from err


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def _file_report(job: Job, scores: Sequence[float]) -> FileReport:
    return FileReport(
        input=str(job.source),
        output=str(job.output),
        streak_mask=str(job.mask) if job.mask else None,
        frames=len(scores),
        rain_score=sum(scores) / len(scores),
    )
