"""Writes rosbag2 recordings, with topics as they were in another recording, whatever their encoding and schema."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from mcap.records import Attachment, Metadata
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2.metadata import dump_qos_v8
from ruamel.yaml import YAML

from sapnet.bags.mcap import ROSBAG2_RECORD
from sapnet.bags.recording import CDR, METADATA, METADATA_ROOT, QOS_KEY, STORAGES, Schema, Topic, zstd
from sapnet.bags.types import parse_qos
from sapnet.files import sync

# Read by ROS 2 from Humble on: version 9 writes profiles as a list, which Humble does not accept.
VERSION = 8
_SQLITE3_TABLES = """
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,
    offered_qos_profiles TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
    encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
INSERT INTO schema(schema_version, ros_distro) VALUES (4, 'rosbag2');
"""


@dataclass
class Written:
    """A file of a recording. span_ns: the lowest log time and the highest; None without messages.

    counts: messages by topic, in the order in which the topics were added. size: bytes of all messages.
    """

    name: str = ""
    counts: list[int] = field(default_factory=list)
    size: int = 0
    span_ns: tuple[int, int] | None = None


@dataclass(eq=False)
class BagWriter:
    """A rosbag2 recording to write in a ``with`` statement, at whose end metadata.yaml is written and synced.

    It has one file, or more where ``end`` is called before. After an error, the file that is being written is closed as
    it is. Entering, leaving and writing raise OSError, sqlite3.Error.
    path: its folder. storage: ``mcap`` or ``sqlite3``. compression, custom, profile: as in Recording.
    name: of its files, to which their numbers are added; by default that of the folder. files: the complete ones.
    written: the one that is being written.
    """

    path: Path
    storage: str
    compression: str = "none"
    custom: Mapping[str, str] = field(default_factory=dict)
    profile: str = "ros2"
    name: str = ""
    files: list[Written] = field(default_factory=list)
    written: Written = field(default_factory=Written)
    _topics: list[Topic] = field(default_factory=list)
    _file: _Mcap | _Sqlite3 | None = None

    def _begin(self) -> _Mcap | _Sqlite3:
        """Begin a file."""
        path = self.path / f"{self.name or self.path.name}_{len(self.files)}{STORAGES[self.storage]}"
        if self.storage == "mcap":
            self._file = _Mcap(path, self.compression == "chunk", self.profile)
        else:
            self._file = _Sqlite3(path)
        self._numbers = [self._file.add(topic) for topic in self._topics]
        self.written = Written(path.name, [0] * len(self._topics))
        return self._file

    def add(self, topic: Topic) -> int:
        """Add a topic to this file and all later ones, and return the number to write its messages under."""
        self._topics.append(topic)
        if self._file is not None:
            self._numbers.append(self._file.add(topic))
            self.written.counts.append(0)
        return len(self._topics) - 1

    def add_record(self, record: Attachment | Metadata) -> None:
        """Add an attachment or a metadata record to the file that is being written; only mcap holds them."""
        if isinstance(self._file, _Mcap):
            self._file.add_record(record)

    def write(
        self, number: int, time_ns: int, data: bytes | memoryview, publish_ns: int | None = None, sequence: int = 0
    ) -> None:
        """Write a message. time_ns: log time, which also stands for a publish time that is None."""
        file = self._file or self._begin()
        packed = zstd.compress(data) if self.compression == "message" else bytes(data)
        publish_ns = time_ns if publish_ns is None else publish_ns
        file.write(self._numbers[number], time_ns, packed, publish_ns, sequence)
        first_ns, last_ns = self.written.span_ns or (time_ns, time_ns)
        self.written.span_ns = min(first_ns, time_ns), max(last_ns, time_ns)
        self.written.counts[number] += 1
        self.written.size += len(data)

    def end(self) -> Written | None:
        """Complete the file, after which the next message begins another; None if none was begun."""
        if self._file is None:
            return None
        written, self.written = self.written, Written()
        plain = self.path / written.name
        if self.compression == "file":
            written.name += ".zstd"
        self._file.close(_dump(self._metadata([written])))
        self._file = None
        if self.compression == "file":
            with plain.open("rb") as content, zstd.open(self.path / written.name, "wb") as packed:
                shutil.copyfileobj(content, packed)
            plain.unlink()
        self.files.append(written)
        return written

    def __enter__(self) -> BagWriter:
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.files:  # records need a file, and a recording without messages has one, too
            self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.end()
                with (self.path / METADATA).open("x", encoding="utf-8") as file:  # replaces no other recording's
                    file.write(_dump({METADATA_ROOT: self._metadata(self.files)}))
                sync(self.path / METADATA)
        finally:
            if self._file is not None:
                with suppress(OSError, sqlite3.Error):
                    self._file.abort()

    def _metadata(self, files: Sequence[Written]) -> dict[str, Any]:
        """metadata.yaml for some of the files."""
        mode = self.compression if self.compression in ("message", "file") else ""
        counts = map(sum, zip(*(file.counts for file in files), strict=True))
        return {
            "version": VERSION,
            "storage_identifier": self.storage,
            "relative_file_paths": [file.name for file in files],
            **_extent(files),
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": topic.name,
                        "type": topic.type,
                        "serialization_format": topic.encoding,
                        "offered_qos_profiles": dump_qos_v8([*topic.qos]),
                        "type_description_hash": topic.digest,
                    },
                    "message_count": count,
                }
                for topic, count in zip(self._topics, counts, strict=True)
            ],
            "compression_format": "zstd" if mode else "",
            "compression_mode": mode,
            "files": [{"path": file.name, **_extent([file])} for file in files],
            "custom_data": dict(self.custom) or None,
            "ros_distro": "rosbags",
        }


def _dump(values: Any) -> str:
    """Values as YAML, without a line break at the end."""
    yaml, text = YAML(typ="safe"), StringIO()
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump(values, text)
    return text.getvalue().strip()


def _extent(files: Sequence[Written]) -> dict[str, Any]:
    """Times and number of the messages of some files, as metadata.yaml has them."""
    spans = [file.span_ns for file in files if file.span_ns] or [(0, 0)]
    first_ns, last_ns = min(first for first, _ in spans), max(last for _, last in spans)
    return {
        "starting_time": {"nanoseconds_since_epoch": first_ns},
        "duration": {"nanoseconds": last_ns - first_ns},
        "message_count": sum(sum(file.counts) for file in files),
    }


class _Mcap:
    def __init__(self, path: Path, compress: bool, profile: str) -> None:
        self._stream = path.open("xb")
        self.abort = self._stream.close
        self._writer = McapWriter(self._stream, compression=CompressionType.ZSTD if compress else CompressionType.NONE)
        self._writer.start(profile)
        # A channel without schema has neither a type's name nor a definition.
        self._schemas: dict[tuple[str, Schema], int] = {("", Schema()): 0}

    def add(self, topic: Topic) -> int:
        key = topic.type, topic.schema
        if key not in self._schemas:
            self._schemas[key] = self._writer.register_schema(topic.type, topic.schema.encoding, topic.schema.data)
        metadata = {QOS_KEY: "", "topic_type_hash": topic.digest} if topic.metadata is None else dict(topic.metadata)
        # Corrected in metadata.yaml, merged from several publishers, or not from mcap: both places must agree.
        if topic.encoding == CDR and parse_qos(metadata.get(QOS_KEY)) != topic.qos:
            metadata[QOS_KEY] = dump_qos_v8([*topic.qos])
        return self._writer.register_channel(topic.name, topic.encoding, self._schemas[key], metadata)

    def add_record(self, record: Attachment | Metadata) -> None:
        if isinstance(record, Metadata):
            self._writer.add_metadata(record.name, record.metadata)
        else:
            self._writer.add_attachment(**vars(record))

    def write(self, number: int, time_ns: int, data: bytes, publish_ns: int, sequence: int) -> None:
        self._writer.add_message(number, time_ns, data, publish_ns, sequence)

    def close(self, metadata: str) -> None:
        self._writer.add_metadata(ROSBAG2_RECORD, {"serialized_metadata": metadata})
        self._writer.finish()  # type: ignore[no-untyped-call]
        self.abort()


class _Sqlite3:
    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self.abort = self._database.close
        self._database.executescript(_SQLITE3_TABLES)
        self._types: set[str] = set()

    def add(self, topic: Topic) -> int:
        if topic.type not in self._types and topic.schema.data:
            self._types.add(topic.type)
            definition = topic.schema.data.decode(errors="replace")
            values = topic.type, topic.schema.encoding, definition, topic.digest
            self._database.execute("INSERT INTO message_definitions VALUES (NULL, ?, ?, ?, ?)", values)
        row = topic.name, topic.type, topic.encoding, dump_qos_v8([*topic.qos]), topic.digest
        return self._database.execute("INSERT INTO topics VALUES (NULL, ?, ?, ?, ?, ?)", row).lastrowid or 0

    def write(self, number: int, time_ns: int, data: bytes, publish_ns: int, sequence: int) -> None:
        self._database.execute("INSERT INTO messages VALUES (NULL, ?, ?, ?)", (number, time_ns, data))

    def close(self, metadata: str) -> None:
        self._database.execute("INSERT INTO metadata VALUES (NULL, ?, ?)", (VERSION, metadata))
        self._database.commit()
        self.abort()
