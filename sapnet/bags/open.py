"""Opens recordings, whole or damaged: the files of rosbag2, one after the other, or a ROS 1 bag. The one way in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sapnet.bags.mcap import McapFile
from sapnet.bags.recording import (
    METADATA,
    METADATA_ROOT,
    QOS_KEY,
    STORAGES,
    Findings,
    Recording,
    StoredFile,
    Topic,
    reading,
    zstd,
)
from sapnet.bags.ros1 import Ros1File
from sapnet.bags.sqlite3 import Sqlite3File, copy_with_logs
from sapnet.bags.types import parse_qos
from sapnet.errors import BagError, first_line
from sapnet.files import natural_key

_READERS: dict[str, type[StoredFile]] = {"mcap": McapFile, "sqlite3": Sqlite3File, "ros1": Ros1File}
_SUFFIXES = {suffix: storage for storage, suffix in STORAGES.items()} | {".bag": "ros1", ".bag.active": "ros1"}
_PACKED = (".zstd", ".zst")


@contextmanager
def open_recording(path: Path | str) -> Iterator[Recording]:
    """Open a rosbag2 folder, one of its files, or a ROS 1 bag.

    A recording that was not finished (no metadata.yaml, an mcap file without its end, a database whose log was not
    merged) is opened as far as it can be read. What has to be unpacked goes to a folder in TMPDIR until the recording
    is closed. Raises BagError.
    """
    path = Path(path)
    with ExitStack() as stack:
        with reading(path):
            scratch = TemporaryDirectory(prefix="sapnet_bag_", ignore_cleanup_errors=True)
            recording = _open(path, Path(stack.enter_context(scratch)))
        for file in recording.files:
            stack.callback(file.close)
        yield recording


def is_recording(path: Path) -> bool:
    """Whether a path is a recording by its name or, for a folder, by what is in it: also an unfinished one."""
    if path.is_dir():
        return (path / METADATA).is_file() or any(_storage_of(file) in STORAGES for file in path.iterdir())
    return is_recording_file(path)


def is_recording_file(path: Path) -> bool:
    """Whether a file is a recording, or one file of it, by its name alone."""
    return bool(_storage_of(path))


def _storage_of(path: Path) -> str:
    """The storage by a file's name, which may end in that of a compression; empty for other files."""
    name = path.stem if path.suffix in _PACKED else path.name
    return next((storage for suffix, storage in _SUFFIXES.items() if name.endswith(suffix)), "")


# What is known before the files are opened: their paths, and what metadata.yaml says of topics, compression (empty if
# unknown) and custom data.
_Found = tuple[list[Path], list[Topic], str, dict[str, str]]


def _open(path: Path, scratch: Path) -> Recording:
    """scratch: an empty folder. Raises BagError, OSError."""
    findings = Findings()
    paths, topics, compression, custom = _find(path, findings)
    storage = _storage_of(paths[0])
    files = list(_opened(paths, scratch, findings))
    if not files:
        raise BagError(f"{path} cannot be read as a rosbag2 recording: {'; '.join(findings)}")
    if not compression:  # without metadata.yaml; whether messages are compressed is not looked into
        in_chunks = any(file.compression == "chunk" for file in files)
        compression = "file" if all(file.suffix in _PACKED for file in paths) else "chunk" if in_chunks else "none"
    spans = [file.span_ns for file in files if file.span_ns != (0, 0)] or [(0, 0)]
    start_ns, end_ns = min(start for start, _ in spans), max(end for _, end in spans)
    return Recording(path, storage, compression, _merged(files, topics), start_ns, end_ns, files, findings, custom)


def _find(path: Path, findings: Findings) -> _Found:
    if not path.exists():
        raise BagError(f"{path} does not exist; give a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
    if path.is_file():
        if not _storage_of(path):
            raise BagError(f"{path} is no recording; expected a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
        return [path], [], "", {}
    there = [file for file in path.iterdir() if _storage_of(file) in STORAGES]
    found: _Found = sorted(there, key=lambda file: natural_key(file.name)), [], "", {}
    if (path / METADATA).is_file():
        try:
            found = _from_metadata(path, YAML(typ="safe").load((path / METADATA).read_bytes())[METADATA_ROOT])
        except (YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as err:
            findings.note(f"{METADATA} is damaged ({first_line(err)}): its files are read without it")
    elif there:
        findings.note(f"no {METADATA}, so the recording was not finished: its files are read without it")
    if missing := [file.name for file in found[0] if not file.is_file()]:
        findings.lose(f"{', '.join(missing)} of the recording is missing")
    paths = [file for file in found[0] if file.is_file()]
    if not paths:
        said = "".join(f"; {note}" for note in findings)
        raise BagError(f"{path} holds no recording; expected {METADATA} and .mcap or .db3 files in it{said}")
    return paths, *found[1:]


def _from_metadata(folder: Path, metadata: Any) -> _Found:
    """Raises KeyError, TypeError, AttributeError if the metadata is malformed."""
    # Early versions wrote the folder's name too. Nothing outside of the folder is read.
    named = dict.fromkeys(folder / PurePath(name).name for name in metadata["relative_file_paths"])
    topics = [
        Topic(
            str(entry["name"]),
            str(entry["type"]),
            parse_qos(entry.get(QOS_KEY)),
            digest=str(entry.get("type_description_hash") or ""),
            encoding=str(entry["serialization_format"]),
        )
        for entry in (counted["topic_metadata"] for counted in metadata["topics_with_message_count"])
    ]
    custom = {str(key): str(value) for key, value in (metadata.get("custom_data") or {}).items()}
    mode = str(metadata.get("compression_mode") or "none").lower()
    paths = [file for file in named if _storage_of(file) in STORAGES]
    return paths, topics, mode if mode in ("message", "file") else "", custom


def _opened(paths: list[Path], scratch: Path, findings: Findings) -> Iterator[StoredFile]:
    """Open files, leaving out those of several that are damaged from the start. Raises BagError if it is the only one.

    Storage that fails is raised: a run that resumes must find the same messages.
    """
    for number, path in enumerate(paths):
        try:
            yield _READERS[_storage_of(path)](_finder(path, scratch, number, findings), findings)
        except BagError as err:
            if len(paths) == 1:
                kind = "ROS 1 bag" if _storage_of(path) == "ros1" else "rosbag2 recording"
                raise BagError(f"{path} cannot be read as a {kind}: {'; '.join((str(err), *findings))}") from err
            findings.lose(f"{path.name} cannot be read ({first_line(err)}): left out")


def _finder(file: Path, scratch: Path, number: int, findings: Findings) -> Callable[[], Path]:
    """What returns where to read a file: itself, a copy with its logs applied, or where it is unpacked."""
    if file.suffix in _PACKED:
        return partial(_without_packing, file, scratch / "unpacked", findings)
    if _storage_of(file) == "sqlite3" and (copy := copy_with_logs(file, scratch / f"{number}")):
        findings.note(f"{file.name} was not closed: the log beside it is read too")
        return lambda: copy
    return lambda: file


def _without_packing(packed: Path, folder: Path, findings: Findings) -> Path:
    """Where a compressed file is unpacked, in place of whichever file of the recording was in the folder.

    An iterator that still reads the file that was there before keeps it open.
    """
    plain = folder / packed.stem
    if plain.is_file():
        return plain
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with packed.open("rb") as content, plain.open("wb") as unpacked:
        try:
            with zstd.open(content, "rb") as stream:
                shutil.copyfileobj(stream, unpacked)
        except (zstd.ZstdError, EOFError) as err:
            findings.lose(f"{packed.name} is damaged ({first_line(err)}): unpacked up to there")
    return plain


def _merged(files: Collection[StoredFile], described: Sequence[Topic]) -> tuple[Topic, ...]:
    """The topics of all files, completed by what metadata.yaml says of them."""
    topics: dict[Hashable, Topic] = {}
    for topic in (topic for file in files for topic in file.topics):
        known = topics.setdefault(topic.key, replace(topic, count=0))
        profiles = (*known.qos, *(profile for profile in topic.qos if profile not in known.qos))
        topics[topic.key] = replace(known, qos=profiles, count=known.count + topic.count)
    for topic in described:
        keys = [key for key, known in topics.items() if (known.name, known.type) == (topic.name, topic.type)]
        for key in keys:
            known = topics[key]
            # People correct QoS profiles in metadata.yaml, and rosbag2 too goes by it.
            topics[key] = replace(known, qos=topic.qos or known.qos, digest=known.digest or topic.digest)
        if not keys:
            topics[topic.key] = topic
    return tuple(topics.values())
