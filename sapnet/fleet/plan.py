"""Finds recordings and pairs each with its output, and checks the pairs before any work starts."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from sapnet.bags.derain import REPORT
from sapnet.bags.open import is_recording_file
from sapnet.bags.recording import METADATA
from sapnet.errors import SapnetError
from sapnet.fleet.ledger import Row

PARTIAL_SUFFIX = ".partial"

log = logging.getLogger(__name__)


def plan_bags(inputs: Sequence[str], out: Path) -> list[Row]:
    """Pair every recording with its output, sorted by path.

    inputs: recordings, folders that are searched recursively, and ``glob`` patterns, in which ``**`` matches any
    number of folders. A recording is a folder with rosbag2's metadata.yaml, a folder with the numbered files of an
    unfinished recording, or a single .mcap, .db3 or .bag file. Hidden folders, ``out``, partial outputs and derained
    recordings are skipped; so are folders that cannot be read, with a warning.
    out: repeats the folders below an input folder, or below the literal part of a pattern.
    Raises SapnetError if there is no recording, or if one output would be written twice or lie inside another.
    """
    out = out.absolute()
    pairs: dict[Path, Path] = {}
    for given in inputs:
        path = base = Path(given).absolute()
        matches = [path]
        if not path.exists():
            if not glob.has_magic(given):
                raise SapnetError(f"{given} does not exist; give recordings, folders or a pattern such as 'drives/**'")
            base = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            matches = [Path(match) for match in sorted(glob.iglob(str(path), recursive=True))]
        if base.resolve().is_relative_to(out.resolve()):
            raise SapnetError(f"{base} is inside the output folder {out}; choose another output")
        seen: set[Path] = set()
        for source in (found for match in matches for found in _recordings(match, base, seen)):
            if _is_input(source, base, out.resolve()):
                name = source.relative_to(base.parent if source == base else base)
                if source.is_file():
                    name = name.with_name(Path(name.name.removesuffix(".zstd").removesuffix(".zst")).stem)
                pairs.setdefault(source.resolve(), out / name)
    if not pairs:
        raise SapnetError(
            f"no recording in {' '.join(inputs)}; expected folders with {METADATA}, or .mcap, .db3 or .bag files"
        )
    _check(pairs)
    return [Row(str(source), str(output), bytes=_size(source)) for source, output in sorted(pairs.items())]


def _recordings(match: Path, base: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the recordings that a path is, contains or belongs to.

    seen: folders that were searched, none of them again, however many matches of a pattern or links lead to it.
    """
    if match.is_file():
        # A file of a recording stands for all of it.
        is_part = match != base and _is_whole(match.parent, os.listdir(match.parent))
        if is_part or is_recording_file(match):
            yield match.parent if is_part else match
        return
    for root, folders, files in os.walk(match, onerror=_warn, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        if _is_whole(here, files):
            folders.clear()
            yield here
        else:
            folders.sort()
            yield from (here / name for name in sorted(files) if is_recording_file(here / name))


def _is_whole(folder: Path, files: Collection[str]) -> bool:
    """Whether a folder is one recording: by its metadata or, without, as rosbag2 numbers its files NAME_0, NAME_1."""
    names = [name for name in files if is_recording_file(folder / name)]
    stems = {name.rpartition("_")[0] for name in names}
    return METADATA in files or (len(stems) == 1 and any(name.startswith(f"{min(stems)}_0.") for name in names))


def _is_input(source: Path, base: Path, out: Path) -> bool:
    """Whether a recording is neither hidden, nor derained, nor part of the output or of an unfinished one."""
    return not (
        any(part.startswith(".") or part.endswith(PARTIAL_SUFFIX) for part in source.relative_to(base).parts)
        or source.resolve().is_relative_to(out)
        or (source / REPORT).is_file()
    )


def _warn(err: OSError) -> None:
    log.warning("%s cannot be read (%s): skipped", err.filename, err.strerror)


def _check(pairs: dict[Path, Path]) -> None:
    """Refuse outputs that collide. Raises SapnetError."""
    writers: dict[Path, Path] = {}
    for source, output in pairs.items():
        other = writers.setdefault(output, source)
        if other != source:
            raise SapnetError(
                f"{other} and {source} would both be written to {output}; "
                "name a folder above both, quote the pattern, or use two output folders"
            )
    for output, source in writers.items():
        for outer in writers.keys() & set(output.parents):
            raise SapnetError(
                f"{source} would be written to {output}, inside the output of {writers[outer]}; rename one of them"
            )


def _size(source: Path) -> int:
    files = source.iterdir() if source.is_dir() else [source]
    return sum(file.stat().st_size for file in files if file.is_file())
