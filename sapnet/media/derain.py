"""Derains pictures and videos from file to file, and reports on each."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from sapnet.errors import ImageFormatError
from sapnet.images.frame import require_frame
from sapnet.media.pictures import Picture, PictureFile, read_pictures, write_pictures
from sapnet.media.plan import Job
from sapnet.media.tiles import Tiler
from sapnet.media.videos import read_video, write_video

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileReport:
    """The result for one input.

    rain_score: mean over its frames, 0 to 1. damage: what of the input could not be read; empty if all was.
    """

    input: str
    output: str
    streak_mask: str | None
    frames: int
    rain_score: float
    damage: str


@dataclass
class Report:
    """The results for ``asked`` inputs.

    failed: for each input that has no output, why. seconds: reading, deraining and writing, without loading the
    network.
    """

    asked: int
    files: list[FileReport] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def frames(self) -> int:
        """Frames of all files."""
        return sum(file.frames for file in self.files)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds if self.seconds else 0.0

    def add(self, job: Job, scores: Sequence[float], damage: str = "") -> None:
        """Record a job that is done, with the rain score of each frame."""
        mask = str(job.mask) if job.mask else None
        self.files.append(FileReport(str(job.source), str(job.output), mask, len(scores), fmean(scores), damage))

    @contextmanager
    def failures(self, job: Job) -> Iterator[None]:
        """Record what stops this job alone. Raises ImageFormatError where it is the only one."""
        try:
            yield
        except (ImageFormatError, OSError) as err:
            if isinstance(err, OSError):
                said = f"{job.source} cannot be read ({err.strerror}); check its permissions"
            else:
                said = str(err) if str(job.source) in str(err) else f"{job.source}: {err}"
            if self.asked == 1:
                raise ImageFormatError(said) from err
            self.failed[str(job.source)] = said
            log.warning("skipped: %s", said)


def derain_files(derain: Tiler, jobs: Sequence[Job], batch: int, progress: Progress, quality: int, crf: int) -> Report:
    """Do all jobs, pictures first, ``batch`` files or frames in memory at a time.

    quality: of JPEG and WebP, 1 to 100. crf: of videos, 0 (best) to 51.
    An input that cannot be read is recorded, and the others go on. Raises SapnetError where the backend fails
    or an output cannot be written, ImageFormatError for the only input.
    """
    report = Report(len(jobs))
    task = progress.add_task("files", total=len(jobs))
    started = time.monotonic()
    for some in _batches((job for job in jobs if not job.is_video), batch):
        _derain_pictures(derain, some, report, quality)
        progress.advance(task, len(some))
    for job in (job for job in jobs if job.is_video):
        with report.failures(job):
            _derain_video(derain, job, batch, progress, report, crf)
        progress.advance(task)
    report.seconds = time.monotonic() - started
    return report


def _derain_pictures(derain: Tiler, jobs: Sequence[Job], report: Report, quality: int) -> None:
    files: dict[Job, PictureFile] = {}
    for job in jobs:
        with report.failures(job):
            file = read_pictures(job.source)
            for picture in file.pictures:
                require_frame(picture.frame)
            files[job] = file
    results = iter(derain([picture.frame for file in files.values() for picture in file.pictures]))
    for job, file in files.items():
        derained = list(islice(results, len(file.pictures)))
        pairs = list(zip(file.pictures, derained, strict=True))
        with report.failures(job):  # where the output's format cannot hold it
            pictures = [picture.with_frame(result.image) for picture, result in pairs]
            write_pictures(job.output, PictureFile(pictures, file.info), quality)
            if job.mask:
                masks = [Picture(result.streak_mask) for result in derained]
                write_pictures(job.mask, PictureFile(masks, {"duration": file.info.get("duration", 0)}))
            report.add(job, [result.rain_score for result in derained])


def _derain_video(derain: Tiler, job: Job, batch: int, progress: Progress, report: Report, crf: int) -> None:
    scores: list[float] = []
    with ExitStack() as stack:
        video = stack.enter_context(read_video(job.source))
        task = progress.add_task(job.source.name, total=video.count)
        stack.callback(progress.remove_task, task)
        output = stack.enter_context(write_video(job.output, like=video, crf=crf))
        mask = stack.enter_context(write_video(job.mask, like=video, lossless=True)) if job.mask else None
        for frames in _batches(video.frames(output.copy), batch):
            results = derain([require_frame(frame.pixels) for frame in frames])
            for frame, derained in zip(frames, results, strict=True):
                output.write(derained.image, frame.pts, frame.duration)
                if mask:
                    mask.write(derained.streak_mask, frame.pts, frame.duration)
                scores.append(derained.rain_score)
            progress.advance(task, len(frames))
    report.add(job, scores, video.damage)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
