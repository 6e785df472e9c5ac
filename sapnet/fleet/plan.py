"""Finds recordings and pairs each with its output, and checks the pairs before any work starts."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from sapnet.bags.derain import REPORT
from sapnet.bags.metadata import METADATA
from sapnet.errors import SapnetError

PARTIAL_SUFFIX = ".partial"
_FILE = re.compile(r"(?P<name>.+)(?P<kind>\.mcap|\.db3|\.bag)(\.zstd|\.zst)?", re.IGNORECASE)
# rosbag2 numbers the files of a recording from 0.
_NUMBERED = re.compile(r"(?P<name>.+)_(?P<number>\d+)")
_ROSBAG2 = b"rosbag2_bagfile_information"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bag:
    """A recording, the folder for its derained copy (both absolute paths), and its size in bytes."""

    source: Path
    output: Path
    size: int


def plan_bags(inputs: Sequence[str], out: Path) -> list[Bag]:
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
        path = Path(given).absolute()
        if not path.exists() and not glob.has_magic(given):
            raise SapnetError(f"{given} does not exist; give recordings, folders or a pattern such as 'drives/**'")
        literal = path if path.exists() else Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        if out.resolve() in (literal.resolve(), *literal.resolve().parents):
            raise SapnetError(f"{literal} is inside the output folder {out}; choose another output")
        seen: set[Path] = set()
        matches = [path] if path.exists() else map(Path, sorted(glob.iglob(str(path), recursive=True)))
        for source in (found for match in matches for found in _recordings(match, literal, out.resolve(), seen)):
            base = literal.parent if source == literal else literal
            pairs.setdefault(source.resolve(), out / _output_name(source, base))
    if not pairs:
        raise SapnetError(
            f"no recording in {' '.join(inputs)}; expected folders with {METADATA}, or .mcap, .db3 or .bag files"
        )
    _check(pairs)
    return [Bag(source, output, _size(source)) for source, output in sorted(pairs.items())]


def is_complete(output: Path) -> bool:
    """Whether a derained copy is whole."""
    return (output / REPORT).is_file() and (output / METADATA).is_file()


def _recordings(match: Path, base: Path, out: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the recordings that a path is, contains or belongs to.

    seen: folders that were searched, none of them again, however many matches of a pattern or links lead to it.
    """

    def is_skipped(folder: Path) -> bool:
        """Whether a folder was searched, or belongs to the output or to an unfinished one."""
        whole = folder.resolve()
        below = folder.relative_to(base).parts if folder.is_relative_to(base) else ()
        return whole in seen or any(part.endswith(PARTIAL_SUFFIX) for part in below) or out in (whole, *whole.parents)

    if not match.is_dir():
        if not _FILE.fullmatch(match.name):
            return
        siblings = [path.name for path in match.parent.iterdir() if path.is_file()]
        if match == base or not _is_recording(match.parent, siblings):
            if not is_skipped(match.parent):
                yield match
            return
        match = match.parent  # a file of a recording stands for all of it
    for root, folders, files in os.walk(match, onerror=_warn, followlinks=True):
        here = Path(root)
        if is_skipped(here):
            folders.clear()
            continue
        seen.add(here.resolve())
        if _is_recording(here, files):
            folders.clear()
            if REPORT not in files:
                yield here
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (here / name for name in sorted(files) if not name.startswith(".") and _FILE.fullmatch(name))


def _warn(err: OSError) -> None:
    log.warning("%s cannot be read (%s): skipped", err.filename, err.strerror)


def _is_recording(folder: Path, files: Collection[str]) -> bool:
    """Whether a folder is one recording, by its metadata or, without metadata, by the names of its files."""
    if METADATA in files:
        try:
            with (folder / METADATA).open("rb") as file:
                if _ROSBAG2 in file.read(4096):
                    return True
        except OSError as err:
            _warn(err)
    found = [match for name in files if (match := _FILE.fullmatch(name))]
    parts = [_NUMBERED.fullmatch(match["name"]) for match in found if match["kind"].lower() != ".bag"]
    numbered = [part for part in parts if part is not None]
    if not numbered or len(numbered) < len(found):
        return False
    return len({part["name"] for part in numbered}) == 1 and any(int(part["number"]) == 0 for part in numbered)


def _output_name(source: Path, base: Path) -> Path:
    name = source.relative_to(base)
    match = _FILE.fullmatch(name.name)
    return name.with_name(match["name"]) if match and source.is_file() else name


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
        for folder in output.parents:
            if folder in writers:
                raise SapnetError(
                    f"{source} would be written to {output}, inside the output of {writers[folder]}; rename one of them"
                )


def _size(source: Path) -> int:
    files = source.iterdir() if source.is_dir() else [source]
    return sum(file.stat().st_size for file in files if file.is_file())
