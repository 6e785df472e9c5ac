"""Derains pictures and videos from file to file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING

from sapnet.errors import ImageFormatError
from sapnet.images.frame import require_frame
from sapnet.media.formats import is_video
from sapnet.media.pictures import Picture, PictureFile, read_pictures, write_pictures
from sapnet.media.plan import Job
from sapnet.media.tiles import Tiler
from sapnet.media.videos import read_video, write_video

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)


def derain_files(derain: Tiler, jobs: Sequence[Job], batch: int, progress: Progress, quality: int, crf: int) -> None:
    """Do all jobs, pictures first, ``batch`` files or frames in memory at a time, and set their results.

    quality: of JPEG and WebP, 1 to 100. crf: of videos, 0 (best) to 51.
    An input that cannot be read gets an error, and the others go on. Raises SapnetError where the backend fails
    or an output cannot be written.
    """
    task = progress.add_task("files", total=len(jobs))
    pictures = [job for job in jobs if not is_video(job.input)]
    batches = [pictures[at : at + batch] for at in range(0, len(pictures), batch)]
    for some in [*batches, *([job] for job in jobs if is_video(job.input))]:
        if is_video(some[0].input):
            _derain_video(derain, some[0], batch, progress, crf)
        else:
            _derain_pictures(derain, some, quality)
        progress.advance(task, len(some))
        for job in some:
            if job.error and len(jobs) > 1:
                log.warning("skipped: %s", job.error)


@contextmanager
def _failing_alone(job: Job) -> Iterator[None]:
    """Set as the job's error what stops no other job."""
    try:
        yield
    except OSError as err:
        job.error = f"{job.input} cannot be read ({err.strerror}); check its permissions"
    except ImageFormatError as err:
        job.error = str(err) if str(job.input) in str(err) else f"{job.input}: {err}"


def _derain_pictures(derain: Tiler, jobs: Sequence[Job], quality: int) -> None:
    read: list[tuple[Job, PictureFile]] = []
    for job in jobs:
        with _failing_alone(job):
            file = read_pictures(job.input)
            for picture in file.pictures:
                require_frame(picture.frame)
            read.append((job, file))
    results = iter(derain([picture.frame for _, file in read for picture in file.pictures]))
    for job, file in read:
        derained = list(islice(results, len(file.pictures)))
        with _failing_alone(job):  # where the output's format cannot hold it
            pairs = zip(file.pictures, derained, strict=True)
            pictures = [picture.with_frame(result.image) for picture, result in pairs]
            write_pictures(job.output, replace(file, pictures=pictures), quality)
            if job.streak_mask:
                masks = [Picture(result.streak_mask) for result in derained]
                write_pictures(job.streak_mask, PictureFile(masks, {"duration": file.info.get("duration", 0)}))
            job.frames, job.rain_score = len(derained), fmean(result.rain_score for result in derained)


def _derain_video(derain: Tiler, job: Job, batch: int, progress: Progress, crf: int) -> None:
    scores: list[float] = []
    with _failing_alone(job):
        with ExitStack() as stack:
            video = stack.enter_context(read_video(job.input))
            task = progress.add_task(job.input.name, total=video.count)
            stack.callback(progress.remove_task, task)
            output = stack.enter_context(write_video(job.output, like=video, crf=crf))
            mask = None
            if job.streak_mask:
                mask = stack.enter_context(write_video(job.streak_mask, like=video, lossless=True))
            frames = video.frames(output.copy)
            while some := list(islice(frames, batch)):
                results = derain([require_frame(frame.pixels) for frame in some])
                for frame, derained in zip(some, results, strict=True):
                    output.write(derained.image, frame.pts, frame.duration)
                    if mask:
                        mask.write(derained.streak_mask, frame.pts, frame.duration)
                    scores.append(derained.rain_score)
                progress.advance(task, len(some))
        job.frames, job.rain_score, job.damage = len(scores), fmean(scores), video.damage
