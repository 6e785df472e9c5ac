"""Rebuilds files of recordings that were not finished or have no index, as far as they go."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mcap.records import Channel, Message, Schema, Statistics
from mcap.stream_reader import StreamReader
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import parse_qos

from sapnet.bags.source import Recorded, Topic
from sapnet.bags.writer import BagWriter
from sapnet.errors import BagError, first_line

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_FOOTER_BYTES = 37  # opcode, length, summary start, offset start, checksum, magic
_FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}


def why_to_rebuild(file: Path) -> str:
    """What the matter is with a storage file that cannot be read as it is, to follow its name; empty where it can."""
    try:
        return _of_mcap(file) if file.suffix == ".mcap" else _of_sqlite3(file)
    except OSError as err:
        raise BagError(f"{file} cannot be read ({err.strerror}); check its rights") from err


def rebuilt(file: Path, folder: Path) -> Path:
    """What can be read of ``file``, as a sound one in ``folder``, which is made. Raises BagError."""
    try:
        if file.suffix == ".mcap":
            return _rewritten(file, folder, "mcap")
        if _write_ahead_log(file).is_file():
            return _merged(file, folder)
        return _rewritten(file, folder, "sqlite3")
    except OSError as err:
        raise BagError(f"{file} cannot be rebuilt in {folder} ({err.strerror}); set TMPDIR to a larger disk") from err


def _of_mcap(file: Path) -> str:
    with file.open("rb") as stream:
        if stream.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
            raise BagError(f"{file} is no mcap file: it does not begin as one")
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _FOOTER_BYTES))
        footer = stream.read()
        if not footer.endswith(_MCAP_MAGIC) or len(footer) != _FOOTER_BYTES or footer[0] != 2:
            return "has no end, so its recording was cut off: read as far as it goes"
        (summary_start,) = struct.unpack_from("<Q", footer, 9)
        if not summary_start:
            return "has no index: read through once before"
        stream.seek(summary_start)
        # Messages outside of chunks are not indexed, and stand in the order of their arrival.
        statistics = next((r for r in _records(stream) if isinstance(r, Statistics)), None)
        unindexed = statistics is not None and not statistics.chunk_count and statistics.message_count
        return "has no index: read through once before" if unindexed else ""


def _of_sqlite3(file: Path) -> str:
    with file.open("rb") as stream:
        header = stream.read(100)
        size = stream.seek(0, 2)
    if not header.startswith(b"SQLite format 3\0"):
        raise BagError(f"{file} is no sqlite3 file: it does not begin as one")
    page_bytes, pages = struct.unpack_from(">H", header, 16)[0], struct.unpack_from(">I", header, 28)[0]
    log = _write_ahead_log(file)
    if log.is_file() and log.stat().st_size:
        return "was not closed: its log beside it is read too"
    if size < pages * (65536 if page_bytes == 1 else page_bytes):
        return "is cut off: read as far as it goes"
    return ""


def _write_ahead_log(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _records(stream: object) -> Iterator[object]:
    """Of an mcap file or its summary, until where it is cut off."""
    reader = StreamReader(stream, skip_magic=True)  # type: ignore[arg-type]
    try:
        yield from reader.records
    # What the library raises depends on where the file is cut off.
    except Exception:
        return


def _merged(file: Path, folder: Path) -> Path:
    """A database together with what stands in its log."""
    folder.mkdir()
    copy = folder / file.name
    shutil.copyfile(file, copy)
    shutil.copyfile(_write_ahead_log(file), _write_ahead_log(copy))
    try:
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("PRAGMA journal_mode=DELETE").fetchall()
    except sqlite3.Error as err:
        raise BagError(f"{file} and its log cannot be read: {err}") from err
    return copy


def _rewritten(file: Path, folder: Path, storage: str) -> Path:
    read = _mcap_messages if storage == "mcap" else _sqlite3_messages
    with BagWriter(folder, storage) as writer:
        connections = {}
        for topic, time_ns, data in read(file):
            if topic not in connections:
                connections[topic] = writer.add(topic)
            writer.write(connections[topic], time_ns, data)
    return next(path for path in folder.iterdir() if path.suffix == file.suffix)


def _mcap_messages(file: Path) -> Iterator[Recorded]:
    schemas: dict[int, Schema] = {}
    topics: dict[int, Topic] = {}
    with file.open("rb") as stream:
        stream.seek(len(_MCAP_MAGIC))
        for record in _records(stream):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel) and record.id not in topics:
                topics[record.id] = _mcap_topic(record, schemas.get(record.schema_id))
            elif isinstance(record, Message) and record.channel_id in topics:
                yield Recorded(topics[record.channel_id], record.log_time, record.data)


def _mcap_topic(channel: Channel, schema: Schema | None) -> Topic:
    kind = _FORMATS.get(schema.encoding, MessageDefinitionFormat.NONE) if schema else MessageDefinitionFormat.NONE
    text = schema.data.decode(errors="replace") if schema and kind != MessageDefinitionFormat.NONE else ""
    return Topic(
        channel.topic,
        schema.name if schema else "",
        tuple(parse_qos(channel.metadata.get("offered_qos_profiles", ""))),
        MessageDefinition(kind, text),
        channel.metadata.get("topic_type_hash", ""),
        channel.message_encoding,
        0,
    )


def _sqlite3_messages(file: Path) -> Iterator[Recorded]:
    with _database(file) as database:
        topics = {row["id"]: _sqlite3_topic(row, database) for row in database.execute("SELECT * FROM topics")}
        rows = database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
        while True:
            try:
                row = rows.fetchone()
            except sqlite3.Error:  # the page that is not there any more
                return
            if row is None:
                return
            if row["topic_id"] in topics:
                yield Recorded(topics[row["topic_id"]], row["timestamp"], row["data"])


@contextmanager
def _database(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as database:
            database.row_factory = sqlite3.Row
            yield database
    except sqlite3.Error as err:
        raise BagError(f"{file} is damaged before its first message ({first_line(err)})") from err


def _sqlite3_topic(row: sqlite3.Row, database: sqlite3.Connection) -> Topic:
    columns = dict(row)
    definition = MessageDefinition(MessageDefinitionFormat.NONE, "")
    tables = {name for (name,) in map(tuple, database.execute("SELECT name FROM sqlite_master WHERE type='table'"))}
    if "message_definitions" in tables:
        query = "SELECT encoding, encoded_message_definition FROM message_definitions WHERE topic_type = ?"
        for encoding, text in map(tuple, database.execute(query, (columns["type"],))):
            definition = MessageDefinition(_FORMATS.get(encoding, MessageDefinitionFormat.NONE), text)
    return Topic(
        columns["name"],
        columns["type"],
        tuple(parse_qos(columns.get("offered_qos_profiles", ""))),
        definition,
        columns.get("type_description_hash", ""),
        columns["serialization_format"],
        0,
    )
