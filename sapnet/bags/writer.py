"""Writes rosbag2 recordings, with topics as they were in another recording, whatever their encoding and schema."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from mcap.records import Attachment, Metadata
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from sapnet.bags.mcap import ROSBAG2_RECORD
from sapnet.bags.metadata import dump, dump_qos, parse_qos, write_metadata
from sapnet.bags.recording import CDR, QOS_KEY, Schema, Topic
from sapnet.bags.types import zstd

# Read by ROS 2 from Humble on: version 9 writes profiles as a list, which Humble does not accept.
VERSION = 8
_SUFFIX = {"mcap": ".mcap", "sqlite3": ".db3"}
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


class _Storage(Protocol):
    """A file that is written: topics are numbered from 1 in the order of ``add``."""

    def add(self, topic: Topic) -> int: ...

    def write(self, number: int, time_ns: int, data: bytes, publish_ns: int, sequence: int) -> None: ...

    def close(self, metadata: str) -> None: ...

    def abort(self) -> None: ...


class BagWriter:
    """A rosbag2 recording to write, in a ``with`` statement; metadata.yaml is written at its end.

    path: a folder to make. storage: ``mcap`` or ``sqlite3``. compression: as in Recording. profile: of mcap.
    """

    def __init__(
        self,
        path: Path,
        storage: str,
        compression: str = "none",
        custom: Mapping[str, str] | None = None,
        profile: str = "ros2",
    ) -> None:
        self.path = path
        self._storage_name = storage
        self._compression = compression
        self._custom = dict(custom or {})
        self._profile = profile
        self._counts: dict[int, int] = {}
        self._topics: dict[int, Topic] = {}
        self._span: tuple[int, int] | None = None
        self._file = path / f"{path.name}{_SUFFIX[storage]}"

    def open(self) -> None:
        """Make the folder and the file. Raises OSError, sqlite3.Error."""
        self.path.mkdir(parents=True)
        self._storage: _Storage
        if self._storage_name == "mcap":
            self._storage = _Mcap(self._file, self._compression == "chunk", self._profile)
        else:
            self._storage = _Sqlite3(self._file)

    def add(self, topic: Topic) -> int:
        """Add a topic, and return the number to write its messages under."""
        number = self._storage.add(topic)
        self._topics[number], self._counts[number] = topic, 0
        return number

    def add_record(self, record: Attachment | Metadata) -> None:
        """Add an attachment or a metadata record, which only mcap holds."""
        if isinstance(self._storage, _Mcap):
            self._storage.add_record(record)

    def write(
        self, number: int, time_ns: int, data: bytes | memoryview, publish_ns: int | None = None, sequence: int = 0
    ) -> None:
        """Write a message. time_ns: log time, which also stands for a publish time that is None."""
        packed = zstd.compress(data) if self._compression == "message" else bytes(data)
        self._storage.write(number, time_ns, packed, time_ns if publish_ns is None else publish_ns, sequence)
        self._counts[number] += 1
        first, last = self._span or (time_ns, time_ns)
        self._span = min(first, time_ns), max(last, time_ns)

    def close(self) -> None:
        """Finish the file and write metadata.yaml. Raises OSError, sqlite3.Error."""
        is_packed = self._compression == "file"
        name = f"{self._file.name}.zstd" if is_packed else self._file.name
        metadata = self._metadata(name)
        self._storage.close(dump(metadata))
        if is_packed:
            with self._file.open("rb") as plain, zstd.open(self._file.with_name(name), "wb") as packed:
                shutil.copyfileobj(plain, packed)
            self._file.unlink()
        write_metadata(self.path, metadata)

    def abort(self) -> None:
        """Close the file as it is."""
        with suppress(OSError, sqlite3.Error):
            self._storage.abort()

    def __enter__(self) -> BagWriter:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _metadata(self, name: str) -> dict[str, Any]:
        first, last = self._span or (0, 0)
        mode = self._compression if self._compression in ("message", "file") else ""
        span = {
            "starting_time": {"nanoseconds_since_epoch": first},
            "duration": {"nanoseconds": last - first},
            "message_count": sum(self._counts.values()),
        }
        return {
            "version": VERSION,
            "storage_identifier": self._storage_name,
            "relative_file_paths": [name],
            **span,
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": topic.name,
                        "type": topic.type,
                        "serialization_format": topic.encoding,
                        "offered_qos_profiles": dump_qos(topic.qos),
                        "type_description_hash": topic.digest,
                    },
                    "message_count": self._counts[number],
                }
                for number, topic in self._topics.items()
            ],
            "compression_format": "zstd" if mode else "",
            "compression_mode": mode,
            "files": [{"path": name, **span}],
            "custom_data": self._custom or None,
            "ros_distro": "rosbags",
        }


class _Mcap:
    def __init__(self, path: Path, compress: bool, profile: str) -> None:
        self._stream = path.open("xb")
        self._writer = McapWriter(self._stream, compression=CompressionType.ZSTD if compress else CompressionType.NONE)
        self._writer.start(profile)
        self._schemas: dict[tuple[str, Schema], int] = {}

    def add(self, topic: Topic) -> int:
        key = topic.type, topic.schema
        if key not in self._schemas:
            # A channel without schema has neither a type's name nor a definition.
            is_none = key == ("", Schema())
            self._schemas[key] = (
                0 if is_none else self._writer.register_schema(topic.type, topic.schema.encoding, topic.schema.data)
            )
        metadata = {QOS_KEY: "", "topic_type_hash": topic.digest} if topic.metadata is None else dict(topic.metadata)
        # Corrected in metadata.yaml, merged from several publishers, or not from mcap: both places must agree.
        if topic.encoding == CDR and parse_qos(metadata.get(QOS_KEY)) != topic.qos:
            metadata[QOS_KEY] = dump_qos(topic.qos)
        return self._writer.register_channel(topic.name, topic.encoding, self._schemas[key], metadata)

    def add_record(self, record: Attachment | Metadata) -> None:
        if isinstance(record, Metadata):
            self._writer.add_metadata(record.name, record.metadata)
        else:
            self._writer.add_attachment(
                record.create_time, record.log_time, record.name, record.media_type, record.data
            )

    def write(self, number: int, time_ns: int, data: bytes, publish_ns: int, sequence: int) -> None:
        self._writer.add_message(number, time_ns, data, publish_ns, sequence)

    def close(self, metadata: str) -> None:
        self._writer.add_metadata(ROSBAG2_RECORD, {"serialized_metadata": metadata})
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._stream.close()

    def abort(self) -> None:
        self._stream.close()


class _Sqlite3:
    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.executescript(_SQLITE3_TABLES)
        self._types: set[str] = set()
        self._count = 0

    def add(self, topic: Topic) -> int:
        self._count += 1
        if topic.type not in self._types and topic.schema.data:
            self._types.add(topic.type)
            definition = topic.schema.data.decode(errors="replace")
            values = topic.type, topic.schema.encoding, definition, topic.digest
            self._database.execute("INSERT INTO message_definitions VALUES (NULL, ?, ?, ?, ?)", values)
        row = self._count, topic.name, topic.type, topic.encoding, dump_qos(topic.qos), topic.digest
        self._database.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?, ?)", row)
        return self._count

    def write(self, number: int, time_ns: int, data: bytes, publish_ns: int, sequence: int) -> None:
        self._database.execute("INSERT INTO messages VALUES (NULL, ?, ?, ?)", (number, time_ns, data))

    def close(self, metadata: str) -> None:
        self._database.execute("INSERT INTO metadata VALUES (NULL, ?, ?)", (VERSION, metadata))
        self._database.commit()
        self._database.close()

    def abort(self) -> None:
        self._database.rollback()
        self._database.close()
