"""Derains pictures and videos from file to file: pairs inputs with outputs, checks the pairs, and does the work."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from sapnet.errors import ImageFormatError, SapnetError
from sapnet.images.frame import require_frame
from sapnet.media.formats import PICTURE_FORMATS, VIDEO_FORMATS, is_video
from sapnet.media.pictures import Picture, PictureFile, read_pictures, write_pictures
from sapnet.media.tiles import Tiler
from sapnet.media.videos import read_video, write_video

if TYPE_CHECKING:
    from rich.progress import Progress

_SUFFIXES = sorted({*PICTURE_FORMATS, *VIDEO_FORMATS})

log = logging.getLogger(__name__)


@dataclass
class Job:
    """One image or video: where it comes from and goes to and, once it is done, the result.

    streak_mask: None where none is wanted. frames: derained ones. rain_score: their mean, 0 to 1.
    damage: what of the input could not be read; empty if all was. error: why it has no output; empty if it has one.
    """

    input: Path
    output: Path
    streak_mask: Path | None
    frames: int = 0
    rain_score: float = 0.0
    damage: str = ""
    error: str = ""


def plan_jobs(inputs: Sequence[Path], out: Path, masks: bool = False, overwrite: bool = False) -> list[Job]:
    """Pair every input with its output.

    inputs: images, videos and folders, which are searched through all their subfolders.
    out: a folder; or a file, by its suffix, where the one input is a file of the same kind.
    Raises SapnetError where an input is missing or of no known type, where two would be written to one
    file, where an input would be overwritten and, without ``overwrite``, where an output exists.
    """
    to_file = _is_media(out) and not out.is_dir()
    if to_file and (len(inputs) > 1 or inputs[0].is_dir()):
        raise SapnetError(f"{out} names a file, which takes one image or one video; give a folder for the output")
    if out.is_file() and not to_file:
        raise SapnetError(f"{out} is a file of no known type; give a folder for the output")
    jobs: dict[tuple[Path, Path], Job] = {}
    for path in inputs:
        base = path if path.is_dir() else path.parent
        for source in _media_in(path, skip=out):
            output = out if to_file else out / source.relative_to(base)
            # Both formats are lossless, so that a mask stays 0 or 255.
            mask = output.with_name(f"{output.stem}_streak_mask{'.mkv' if is_video(output) else '.png'}")
            jobs[source, output] = Job(source, output, mask if masks else None)
    if to_file and is_video(inputs[0]) != is_video(out):
        raise SapnetError(f"an image is written as an image and a video as a video, got {inputs[0]} and {out}")
    sources = {source.resolve(): source for source, _ in jobs}
    writers: dict[Path, Path] = {}
    for job in jobs.values():
        for path in filter(None, (job.output, job.streak_mask)):
            other = writers.setdefault(path, job.input)
            if other != job.input:
                raise SapnetError(
                    f"{other} and {job.input} would both be written to {path}; rename one, or derain them in two runs"
                )
            if overwritten := sources.get(path.resolve()):
                raise SapnetError(f"{overwritten} is an input and would be overwritten; give another output")
    present = [path for path in writers if path.exists() and not overwrite]
    if present:
        more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
        raise SapnetError(f"{present[0]} exists{more}; give another output, or --overwrite to replace")
    return list(jobs.values())


def _media_in(given: Path, skip: Path) -> list[Path]:
    """A file, or images and videos under a folder, sorted, without hidden ones and those of an earlier run."""
    if not given.exists():
        raise SapnetError(f"{given} does not exist; check the path")
    if not given.is_dir():
        if not _is_media(given):
            expected = f"a folder or {' '.join(_SUFFIXES)}"
            raise SapnetError(f"{given} is neither an image nor a video by its name; expected {expected}")
        return [given]
    whole, left_out = given.resolve(), skip.resolve()
    found = [
        path
        for path in sorted(given.rglob("*"))
        if _is_media(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(given).parts)
        and (left_out == whole or left_out not in path.resolve().parents)
    ]
    if not found:
        raise SapnetError(f"{given} holds no image or video; looked for {' '.join(_SUFFIXES)}")
    return found


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


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
        if job.damage:
            log.warning("%s is derained only in part: %s", job.input, job.damage)
