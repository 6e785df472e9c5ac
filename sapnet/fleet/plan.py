"""Which recordings there are, and what each is derained into: decided, and checked, before any work starts."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapnet.bags.derain import REPORT
from sapnet.bags.metadata import METADATA
from sapnet.errors import SapnetError

PARTIAL, CHUNKS = ".partial", ".chunks"
_FILE = re.compile(r"(?P<name>.+)(?P<kind>\.mcap|\.db3|\.bag)(\.zstd|\.zst)?", re.IGNORECASE)
# rosbag2 numbers the files of a recording from 0.
_NUMBERED = re.compile(r"(?P<name>.+)_(?P<number>\d+)")
_ROSBAG2 = b"rosbag2_bagfile_information"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bag:
    """A recording, the folder that its derained copy goes to, and its bytes; both paths are absolute."""

    source: Path
    output: Path
    size: int


def plan_bags(inputs: Sequence[str], out: Path) -> list[Bag]:
    """Pair every recording with its output, in the order of their paths.

    inputs: recordings, folders that are searched through all their subfolders, and patterns as of ``glob``, where
    ``**`` stands for any folders. A recording is a folder with rosbag2's metadata.yaml, one with the numbered files of
    a recording that was not finished, or an .mcap, .db3 or .bag file. What lies hidden, in ``out``, or was derained
    already is not found; subfolders that cannot be read are left out, and the log says so.
    out: keeps the layout below an input folder, or below what of a pattern is no pattern.
    Raises SapnetError where there is nothing, and where an output would be that of two, or lie inside another.
    """
    out = out.absolute()
    pairs: dict[Path, Path] = {}
    for given in inputs:
        try:
            base, search = _open(given, out)
        except OSError as err:
            raise SapnetError(f"{given} cannot be read ({err.strerror or err}); mend its rights") from err
        for source in search:
            name = _output_name(source, base)
            pairs.setdefault(source.resolve(), out / name)
    if not pairs:
        raise SapnetError(f"{' '.join(inputs)} holds no recording; looked for {METADATA} of rosbag2, .mcap, .db3, .bag")
    _check(pairs)
    return [Bag(source, output, _size(source)) for source, output in sorted(pairs.items())]


def is_complete(output: Path) -> bool:
    """Whether a derained copy is there and whole."""
    return (output / REPORT).is_file() and (output / METADATA).is_file()


def _open(given: str, out: Path) -> tuple[Path, Iterable[Path]]:
    """What an output's layout is relative to, and the recordings that an input stands for."""
    path = Path(given).absolute()
    if path.exists():
        _check_apart(path, out)
        if path.is_file() or _is_recording(path):
            return path.parent, [path]
        return path, _Search(path, out).under(path)
    if not glob.has_magic(given):
        raise SapnetError(f"{given} does not exist; give recordings, folders or a pattern such as 'drives/**'")
    plain = [*_until_magic(path.parts)]
    base = Path(*plain)
    _check_apart(base, out)
    return base, _Search(base, out).matching(sorted(glob.iglob(str(path), recursive=True)))


def _until_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


class _Search:
    """Finds recordings, each folder looked into once however many matches of a pattern lead there."""

    def __init__(self, base: Path, out: Path) -> None:
        self._base = base
        self._out = out.resolve()
        self._seen: set[Path] = set()

    def matching(self, matches: Iterable[str]) -> Iterator[Path]:
        """Recordings that are, hold or are held by these paths."""
        for match in map(Path, matches):
            if match.is_dir():
                yield from self.under(match)
            elif _FILE.fullmatch(match.name) and match.parent.resolve() not in self._seen:
                is_recording = _tell(match.parent)
                if is_recording:
                    yield from self.under(match.parent)
                elif is_recording is False and not self._is_left_out(match.parent):
                    yield match

    def under(self, folder: Path) -> Iterator[Path]:
        """Recordings in a folder and below it, without hidden ones and what earlier runs wrote."""
        whole = folder.resolve()
        if whole in self._seen or self._is_left_out(folder):
            return
        self._seen.add(whole)
        is_recording = _tell(folder)
        if is_recording and not (folder / REPORT).is_file():
            yield folder
        if is_recording is not False:
            return
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from self.under(path)
            elif _FILE.fullmatch(path.name):
                yield path

    def _is_left_out(self, folder: Path) -> bool:
        """Whether a folder is or lies in the output, or in what a run that was broken off has left."""
        whole, below = folder.resolve(), folder.relative_to(self._base).parts
        unfinished = any(Path(part).suffix in (PARTIAL, CHUNKS) for part in below)
        return unfinished or whole == self._out or self._out in whole.parents


def _tell(folder: Path) -> bool | None:
    """Whether a folder is one recording; None where it cannot be read, and the log says so."""
    try:
        return _is_recording(folder)
    except OSError as err:
        log.warning("%s cannot be read (%s): left out", folder, err.strerror or err)
        return None


def _is_recording(folder: Path) -> bool:
    """Whether a folder is one recording, by its metadata or, where that is missing, by its files' names."""
    metadata = folder / METADATA
    if metadata.is_file():
        with metadata.open("rb") as file:
            if _ROSBAG2 in file.read(4096):
                return True
    found = [match for path in folder.iterdir() if (match := _FILE.fullmatch(path.name)) and path.is_file()]
    numbered = [_NUMBERED.fullmatch(match["name"]) for match in found if match["kind"].lower() != ".bag"]
    parts = [match for match in numbered if match is not None]
    if not parts or len(parts) < len(found):
        return False
    return len({part["name"] for part in parts}) == 1 and any(int(part["number"]) == 0 for part in parts)


def _output_name(source: Path, base: Path) -> Path:
    name = source.relative_to(base) if source != base else Path(base.name)
    match = _FILE.fullmatch(name.name)
    return name.with_name(match["name"]) if match and source.is_file() else name


def _check_apart(path: Path, out: Path) -> None:
    if out.resolve() in (path.resolve(), *path.resolve().parents):
        raise SapnetError(f"{path} lies in the output folder {out}; give another output")


def _check(pairs: dict[Path, Path]) -> None:
    """Refuse outputs that get into each other's way. Raises SapnetError."""
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
