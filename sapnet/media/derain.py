"""Derains pictures and videos from file to file, and reports on each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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


@dataclass
class FileReport:
    """The result for one input.

    rain_score: mean over its frames, 0 to 1. damage: what of the input could not be read; empty if all was.
    error: why it has no output; empty if it has one.
    """

    job: Job
    frames: int = 0
    rain_score: float = 0.0
    damage: str = ""
    error: str = ""

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Record what stops this job alone."""
        try:
            yield
        except OSError as err:
            self.error = f"{self.job.source} cannot be read ({err.strerror}); check its permissions"
        except ImageFormatError as err:
            self.error = str(err) if str(self.job.source) in str(err) else f"{self.job.source}: {err}"


def derain_files(
    derain: Tiler, jobs: Sequence[Job], batch: int, progress: Progress, quality: int, crf: int
) -> list[FileReport]:
    """Do all jobs, pictures first, ``batch`` files or frames in memory at a time.

    quality: of JPEG and WebP, 1 to 100. crf: of videos, 0 (best) to 51.
    An input that cannot be read is reported, and the others go on. Raises SapnetError where the backend fails
    or an output cannot be written.
    """
    reports: list[FileReport] = []
    task = progress.add_task("files", total=len(jobs))

    def add(done: Sequence[FileReport]) -> None:
        reports.extend(done)
        progress.advance(task, len(done))
        for report in done:
            if report.error and len(jobs) > 1:
                log.warning("skipped: %s", report.error)

    for some in _batches((job for job in jobs if not job.is_video), batch):
        add(_derain_pictures(derain, some, quality))
    for job in jobs:
        if job.is_video:
            add([_derain_video(derain, job, batch, progress, crf)])
    return reports


def _derain_pictures(derain: Tiler, jobs: Sequence[Job], quality: int) -> list[FileReport]:
    reports = [FileReport(job) for job in jobs]
    read: list[tuple[FileReport, PictureFile]] = []
    for report in reports:
        with report.errors():
            file = read_pictures(report.job.source)
            for picture in file.pictures:
                require_frame(picture.frame)
            read.append((report, file))
    results = iter(derain([picture.frame for _, file in read for picture in file.pictures]))
    for report, file in read:
        job, derained = report.job, list(islice(results, len(file.pictures)))
        with report.errors():  # where the output's format cannot hold it
            pairs = zip(file.pictures, derained, strict=True)
            pictures = [picture.with_frame(result.image) for picture, result in pairs]
            write_pictures(job.output, PictureFile(pictures, file.info), quality)
            if job.mask:
                masks = [Picture(result.streak_mask) for result in derained]
                write_pictures(job.mask, PictureFile(masks, {"duration": file.info.get("duration", 0)}))
            report.frames, report.rain_score = len(derained), fmean(result.rain_score for result in derained)
    return reports


def _derain_video(derain: Tiler, job: Job, batch: int, progress: Progress, crf: int) -> FileReport:
    report, scores = FileReport(job), list[float]()
    with report.errors():
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
        report.frames, report.rain_score, report.damage = len(scores), fmean(scores), video.damage
    return report


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
