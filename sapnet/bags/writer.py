"""Writes rosbag2 recordings: topics as they were in another one, also those whose type nobody describes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Literal

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.metadata import dump_qos_v8
from rosbags.rosbag2.storage_mcap import Channel, McapWriter, Schema, write_channel, write_schema, write_string
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from sapnet.bags.recording import Topic

# Read by ROS 2 from Humble on: from version 9 on, the profiles are a list, which Humble does not take.
VERSION: Literal[8] = 8
_MODES = {
    "none": CompressionMode.NONE,
    "message": CompressionMode.MESSAGE,
    "file": CompressionMode.FILE,
    "chunk": CompressionMode.STORAGE,
}


class _Mcap(McapWriter):
    def add_msgtype(self, connection: Connection) -> None:
        if connection.msgdef.format != MessageDefinitionFormat.NONE:
            super().add_msgtype(connection)
            return
        self.schemas.append(Schema(len(self.schemas) + 1, connection.msgtype, "", ""))
        write_schema(self.chunk.bio, self.schemas[-1])

    def add_connection(self, connection: Connection, offered_qos_profiles: str) -> None:
        """As the library does, and with the type's hash, which rosbag2 writes there too."""
        assert isinstance(connection.ext, ConnectionExtRosbag2)
        metadata = BytesIO()
        for text in ("offered_qos_profiles", offered_qos_profiles, "topic_type_hash", connection.digest):
            write_string(metadata, text)
        serialization = connection.ext.serialization_format
        self.channels.append(
            Channel(connection.id, connection.msgtype, connection.topic, serialization, metadata.getvalue())
        )
        self.channel_stats[connection.id] = 0
        write_channel(self.chunk.bio, self.channels[-1], self.schemas)


class _Sqlite3(Sqlite3Writer):
    def add_msgtype(self, connection: Connection) -> None:
        if connection.msgdef.format != MessageDefinitionFormat.NONE:
            super().add_msgtype(connection)


class BagWriter(Writer):
    """A rosbag2 recording to write, in a ``with`` statement; metadata.yaml is written at its end.

    path: a folder to make. storage: ``mcap`` or ``sqlite3``. compression: as in Recording.
    """

    STORAGE_PLUGINS = {StoragePlugin.MCAP: _Mcap, StoragePlugin.SQLITE3: _Sqlite3}  # noqa: RUF012

    def __init__(self, path: Path, storage: str, compression: str = "none") -> None:
        super().__init__(path, version=VERSION, storage_plugin=StoragePlugin[storage.upper()])
        self.set_compression(_MODES[compression], CompressionFormat.ZSTD)

    def add(self, topic: Topic) -> Connection:
        """The connection to write a topic's messages to. The library's own way in takes no type without definition."""
        assert self.storage is not None
        connection = Connection(
            len(self.connections) + 1,
            topic.name,
            topic.type,
            topic.definition,
            topic.digest,
            0,
            ConnectionExtRosbag2(topic.serialization, list(topic.qos)),
            self,
        )
        if topic.type not in self.added_types:
            self.storage.add_msgtype(connection)
            self.added_types.add(topic.type)
        self.storage.add_connection(connection, dump_qos_v8(list(topic.qos)))
        self.connections.append(connection)
        self.counts[connection.id] = 0
        return connection
