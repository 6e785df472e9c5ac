"""Opens recordings, whole or damaged: the files of rosbag2, one after the other, or a ROS 1 bag. The one way in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sapnet.bags.mcap import McapFile
from sapnet.bags.recording import (
    CDR,
    METADATA,
    METADATA_ROOT,
    QOS_KEY,
    STORAGES,
    Findings,
    Message,
    Recording,
    Topic,
    reading,
)
from sapnet.bags.ros1 import open_ros1
from sapnet.bags.sqlite3 import Sqlite3File, copy_with_logs
from sapnet.bags.types import parse_qos, zstd
from sapnet.errors import BagError, first_line
from sapnet.files import natural_key

ROS1_SUFFIXES = (".bag", ".bag.active")
PACKED = (".zstd", ".zst")
# The first bytes of a compressed message; CDR begins with 00.
_ZSTD = b"\x28\xb5\x2f\xfd"


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
            if not path.exists():
                raise BagError(f"{path} does not exist; give a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
            if path.name.endswith(ROS1_SUFFIXES) and path.is_file():
                recording = stack.enter_context(open_ros1(path))
            else:
                scratch = TemporaryDirectory(prefix="sapnet_bag_", ignore_cleanup_errors=True)
                recording = _open_rosbag2(path, Path(stack.enter_context(scratch)))
        yield recording


def is_recording(path: Path) -> bool:
    """Whether a path is a recording by its name or, for a folder, by what is in it: also an unfinished one."""
    if path.is_dir():
        return (path / METADATA).is_file() or any(_storage_of(file) for file in path.iterdir())
    return is_recording_file(path)


def is_recording_file(path: Path) -> bool:
    """Whether a file is a recording, or one file of it, by its name alone."""
    return bool(_storage_of(path)) or path.name.endswith(ROS1_SUFFIXES)


@dataclass
class _Described:
    """What is known before the files are opened, from metadata.yaml if there is one. compression: empty if unknown."""

    files: list[Path]
    topics: list[Topic] = field(default_factory=list)
    compression: str = ""
    custom: dict[str, str] = field(default_factory=dict)


def _open_rosbag2(path: Path, scratch: Path) -> Recording:
    """A rosbag2 folder or one of its files. scratch: an empty folder. Raises BagError, OSError."""
    findings = Findings()
    described = _describe(path, findings)
    files = list(_opened(described.files, scratch, findings))
    if not files:
        raise BagError(f"{path} cannot be read as a rosbag2 recording: {'; '.join(findings)}")
    mcap_files = [file for file in files if isinstance(file, McapFile)]
    topics = _merged(files, described.topics)
    # Without metadata.yaml; whether messages are compressed is not looked into.
    is_packed = all(file.suffix in PACKED for file in described.files)
    in_chunks = any(file.compression == "chunk" for file in mcap_files)
    spans = [file.span_ns for file in files if file.span_ns != (0, 0)]

    def read(wanted: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
        keys = {topic.key for topic in wanted}
        for file in files:
            # By the file's own topics; a merged one may stand for several.
            owners = {own: topics[own.key] for own in file.topics if topics[own.key].key in keys}
            # What is not read is not unpacked.
            if owners and max(start_ns, file.span_ns[0]) < min(stop_ns, file.span_ns[1]):
                for message in file.messages(owners, start_ns, stop_ns):
                    data = _unpacked(message, findings)
                    if data is not None:
                        yield message._replace(topic=owners[message.topic], data=data)

    return Recording(
        path,
        _storage_of(described.files[0]),
        described.compression or ("file" if is_packed else "chunk" if in_chunks else "none"),
        tuple(dict.fromkeys(topics.values())),
        min((start for start, _ in spans), default=0),
        max((end for _, end in spans), default=0),
        findings,
        read,
        described.custom,
        next((file.profile for file in mcap_files), "ros2"),
        lambda: chain.from_iterable(file.records() for file in mcap_files),
    )


def _storage_of(path: Path) -> str:
    """``mcap`` or ``sqlite3`` by a file's name, which may end in that of a compression; empty for other files."""
    suffix = path.with_suffix("").suffix if path.suffix in PACKED else path.suffix
    return next((storage for storage in STORAGES if STORAGES[storage] == suffix), "")


def _describe(path: Path, findings: Findings) -> _Described:
    if path.is_file():
        if not _storage_of(path):
            raise BagError(f"{path} is no recording; expected a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
        return _Described([path])
    described = _Described(
        sorted((file for file in path.iterdir() if _storage_of(file)), key=lambda file: natural_key(file.name))
    )
    if (path / METADATA).is_file():
        try:
            described = _from_metadata(path, YAML(typ="safe").load((path / METADATA).read_bytes())[METADATA_ROOT])
        except (YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as err:
            findings.note(f"{METADATA} is damaged ({first_line(err)}): its files are read without it")
    elif described.files:
        findings.note(f"no {METADATA}, so the recording was not finished: its files are read without it")
    if missing := [file.name for file in described.files if not file.is_file()]:
        findings.lose(f"{', '.join(missing)} of the recording is missing")
    described.files = [file for file in described.files if file.is_file()]
    if not described.files:
        said = "".join(f"; {note}" for note in findings)
        raise BagError(f"{path} holds no recording; expected {METADATA} and .mcap or .db3 files in it{said}")
    return described


def _from_metadata(folder: Path, metadata: Any) -> _Described:
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
    return _Described(
        [file for file in named if _storage_of(file)], topics, mode if mode in ("message", "file") else "", custom
    )


def _opened(files: list[Path], scratch: Path, findings: Findings) -> Iterator[McapFile | Sqlite3File]:
    """Open files, leaving out those that are damaged from the start.

    Storage that fails is raised: a run that resumes must find the same messages.
    """
    for number, file in enumerate(files):
        try:
            find = _finder(file, scratch, number, findings)
            yield McapFile(find, findings) if _storage_of(file) == "mcap" else Sqlite3File(find, findings)
        except BagError as err:
            findings.lose(f"{file.name} cannot be read ({first_line(err)}): left out")


def _finder(file: Path, scratch: Path, number: int, findings: Findings) -> Callable[[], Path]:
    """What returns where to read a file: itself, a copy with its logs applied, or where it is unpacked."""
    if file.suffix in PACKED:
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


def _merged(files: Collection[McapFile | Sqlite3File], described: list[Topic]) -> dict[Hashable, Topic]:
    """The topics of all files by their keys, completed by what metadata.yaml says of them."""
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
    return topics


def _unpacked(message: Message, findings: Findings) -> bytes | None:
    if message.topic.encoding != CDR or not message.data.startswith(_ZSTD):
        return message.data
    try:
        return zstd.decompress(message.data)
    except zstd.ZstdError as err:
        findings.lose(f"{message.topic.name} holds messages that cannot be unpacked ({first_line(err)}): left out")
        return None
