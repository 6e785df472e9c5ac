"""What ``sapnet derain`` will read and write, checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sapnet.errors import SapnetError
from sapnet.media.formats import PICTURE_FORMATS, VIDEO_FORMATS, is_video

_SUFFIXES = sorted({*PICTURE_FORMATS, *VIDEO_FORMATS})


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
    outputs: dict[tuple[Path, Path], None] = {}
    for path in inputs:
        found = _media_in(path, skip=out)
        base = path if path.is_dir() else path.parent
        outputs |= {(source, out if to_file else out / source.relative_to(base)): None for source in found}
    if to_file and is_video(inputs[0]) != is_video(out):
        raise SapnetError(f"an image is written as an image and a video as a video, got {inputs[0]} and {out}")
    jobs = [Job(source, output, None) for source, output in outputs]
    for job in jobs if masks else []:
        # Both formats are lossless, so that a mask stays 0 or 255.
        suffix = ".mkv" if is_video(job.output) else ".png"
        job.streak_mask = job.output.with_name(f"{job.output.stem}_streak_mask{suffix}")
    sources = {job.input.resolve(): job.input for job in jobs}
    writers: dict[Path, Path] = {}
    for job in jobs:
        for path in filter(None, (job.output, job.streak_mask)):
            other = writers.setdefault(path, job.input)
            if other != job.input:
                raise SapnetError(
                    f"{other} and {job.input} would both be written to {path}; rename one, or derain them in two runs"
                )
            if source := sources.get(path.resolve()):
                raise SapnetError(f"{source} is an input and would be overwritten; give another output")
    present = [path for path in writers if path.exists() and not overwrite]
    if present:
        more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
        raise SapnetError(f"{present[0]} exists{more}; give another output, or --overwrite to replace")
    return jobs


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
