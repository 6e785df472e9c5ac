"""rosbag2 recordings: the files that metadata.yaml names, or what is there without it, one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.metadata import parse_qos
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sapnet.bags.salvage import rebuilt, why_to_rebuild
from sapnet.bags.source import BagSource, Recorded, Topic
from sapnet.bags.types import zstd
from sapnet.errors import BagError, first_line

METADATA = "metadata.yaml"
STORAGES = {".mcap": "mcap", ".db3": "sqlite3"}
# How a message or file that was compressed begins; CDR begins with 00.
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass
class _Recording:
    """What is known before the files are opened: of metadata.yaml, as far as there is one."""

    files: list[Path]
    topics: list[dict[str, Any]] = field(default_factory=list)
    compression: str = "none"
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_rosbag2(path: Path, scratch: Path) -> Iterator[BagSource]:
    """Open a rosbag2 folder or one of its files. scratch: an empty folder. Raises BagError."""
    recording = _find(path)
    files = [_prepare(file, scratch, recording.notes) for file in recording.files]
    topics: dict[tuple[str, str], Topic] = {}
    spans: list[tuple[int, int]] = []
    compression, sound = recording.compression, []
    for file in files:
        try:
            with Reader(file) as reader:
                for connection in reader.connections:
                    _add(topics, _topic(connection))
                spans += [(reader.start_time, reader.end_time)] if reader.message_count else []
                compression = _of_chunks(reader) if compression == "none" else compression
                sound.append(file)
        # What the library raises depends on the byte that is wrong; so it does below.
        except Exception as err:
            recording.notes.append(f"{file.name} cannot be read ({first_line(err)}): left out")
    if not sound:
        raise BagError(f"{path} cannot be read as a rosbag2 recording: {'; '.join(recording.notes) or 'it is empty'}")
    for entry in recording.topics:
        _describe(topics, entry)
    found = tuple(topics.values())
    span = (min(start for start, _ in spans), max(end for _, end in spans)) if spans else (0, 0)

    def read(wanted: Collection[Topic], start_ns: int | None, stop_ns: int | None) -> Iterator[Recorded]:
        keys = {(topic.name, topic.type): topic for topic in wanted}
        for file in sound:
            try:
                yield from _messages(file, keys, start_ns, stop_ns)
            except Exception as err:
                recording.notes.append(f"{file.name} is damaged ({first_line(err)}): read as far as it goes")

    yield BagSource(path, STORAGES[files[0].suffix], compression, found, span, recording.notes, read)


def _find(path: Path) -> _Recording:
    if path.is_file():
        if _suffix(path) not in STORAGES:
            raise BagError(f"{path} is no recording; expected a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
        return _Recording([path])
    recording = _Recording([file for file in sorted(path.iterdir(), key=_order) if _suffix(file) in STORAGES])
    if (path / METADATA).is_file():
        try:
            _read_metadata(path, recording)
        except (YAMLError, KeyError, TypeError, AttributeError, ValueError, OSError) as err:
            recording.notes.append(f"{METADATA} cannot be read ({first_line(err)}): its files are read without it")
    elif recording.files:
        recording.notes.append(f"no {METADATA}, so the recording was not finished: its files are read without it")
    if not recording.files:
        raise BagError(f"{path} holds no recording; expected {METADATA} and .mcap or .db3 files in it")
    return recording


def _read_metadata(path: Path, recording: _Recording) -> None:
    metadata: dict[str, Any] = YAML(typ="safe").load(path / METADATA)["rosbag2_bagfile_information"]
    named = [path / PurePath(name).name for name in metadata["relative_file_paths"]]
    topics = [entry["topic_metadata"] for entry in metadata["topics_with_message_count"]]
    mode = str(metadata.get("compression_mode") or "none").lower()
    missing = [file.name for file in named if not file.is_file()]
    if missing:
        recording.notes.append(f"{', '.join(missing)} of the recording is missing")
    recording.files = [file for file in named if file.is_file()]
    recording.topics = topics
    recording.compression = mode if mode in ("message", "file") else "none"


def _suffix(path: Path) -> str:
    """That of the storage: a compressed file has one more."""
    return path.with_suffix("").suffix if path.suffix in (".zstd", ".zst") else path.suffix


def _order(path: Path) -> list[tuple[bool, int, str]]:
    from sapnet.sources import natural_key

    return natural_key(path.name)


def _prepare(file: Path, scratch: Path, notes: list[str]) -> Path:
    """A file that the library can read: itself, or what was made of it in ``scratch``."""
    if file.suffix in (".zstd", ".zst"):
        plain = scratch / file.stem
        try:
            with zstd.open(file, "rb") as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except (zstd.ZstdError, EOFError) as err:
            notes.append(f"{file.name} is damaged ({first_line(err)}): unpacked as far as it goes")
        except OSError as err:
            raise BagError(
                f"{file} cannot be unpacked to {plain} ({err.strerror}); set TMPDIR to a larger disk"
            ) from err
        file = plain
    why = why_to_rebuild(file)
    if why:
        notes.append(f"{file.name} {why}")
        file = rebuilt(file, scratch / f"rebuilt_{file.stem}")
    return file


def _topic(connection: Connection) -> Topic:
    assert isinstance(connection.ext, ConnectionExtRosbag2)
    qos, serialization = tuple(connection.ext.offered_qos_profiles), connection.ext.serialization_format
    definition = connection.msgdef
    if not definition.data:
        definition = MessageDefinition(MessageDefinitionFormat.NONE, "")
    return Topic(
        connection.topic, connection.msgtype, qos, definition, connection.digest, serialization, connection.msgcount
    )


def _add(topics: dict[tuple[str, str], Topic], topic: Topic) -> None:
    """Merge what the files of a recording, or several connections in one, say of a topic."""
    known = topics.get((topic.name, topic.type))
    if known is not None:
        topic = replace(
            known,
            qos=known.qos or topic.qos,
            definition=known.definition if known.definition.data else topic.definition,
            digest=known.digest or topic.digest,
            count=known.count + topic.count,
        )
    topics[topic.name, topic.type] = topic


def _describe(topics: dict[tuple[str, str], Topic], entry: dict[str, Any]) -> None:
    """Add what only metadata.yaml says: QoS profiles and hashes in some versions."""
    topic = topics.get((entry["name"], entry["type"]))
    if topic is not None:
        qos = topic.qos or tuple(parse_qos(entry.get("offered_qos_profiles") or ""))
        digest = topic.digest or entry.get("type_description_hash") or ""
        topics[topic.name, topic.type] = replace(topic, qos=qos, digest=digest)


def _of_chunks(reader: Reader) -> str:
    chunks: Sequence[Any] = getattr(reader.storage, "chunks", ())
    return "chunk" if any(chunk.compression for chunk in chunks) else "none"


def _messages(
    file: Path, wanted: dict[tuple[str, str], Topic], start_ns: int | None, stop_ns: int | None
) -> Iterator[Recorded]:
    with Reader(file) as reader:
        connections = [c for c in reader.connections if (c.topic, c.msgtype) in wanted]
        if not connections:
            return
        for connection, time_ns, data in reader.messages(connections, start_ns, stop_ns):
            if data.startswith(_ZSTD):
                data = zstd.decompress(data)
            yield Recorded(wanted[connection.topic, connection.msgtype], time_ns, data)
