"""Reads one mcap file: by its index, or front to back if it has none or was cut off."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heappop, heappush
from io import BufferedReader
from itertools import count
from pathlib import Path

from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import (
    Attachment,
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    McapRecord,
    Metadata,
    MetadataIndex,
    Statistics,
)
from mcap.records import Message as McapMessage
from mcap.records import Schema as McapSchema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary
from zstandard import ZstdError

from sapnet.bags.recording import QOS_KEY, Findings, Message, Records, Schema, Topic
from sapnet.bags.types import parse_qos
from sapnet.errors import BagError, first_line

# The metadata record in which rosbag2 repeats metadata.yaml.
ROSBAG2_RECORD = "rosbag2"
MAGIC = b"\x89MCAP0\r\n"
# Messages of a file without index are sorted by log time within a window of this size.
_WINDOW_BYTES = 2**23

_SHORTEST = 2 * len(MAGIC) + 29  # of a file with an end: two magics and a footer

# What the mcap library and its decompressors raise for damaged bytes; RuntimeError is lz4's.
_DAMAGE = (McapError, ZstdError, ValueError, KeyError, OverflowError, struct.error, RuntimeError)


class McapFile:
    """An mcap file. topics: one per channel. compression: ``chunk`` or ``none``. profile: of its header.

    find: returns where to read it. span_ns: log times of its first message and of the last, plus one; equal if there
    are none. Raises BagError if nothing can be read, OSError.
    """

    def __init__(self, find: Callable[[], Path], findings: Findings) -> None:
        self._find = find
        self._name = find().name
        self._findings = findings
        self._is_damaged = False
        with _Stream(self._find()) as stream:
            try:
                self.profile = _seeking(stream).get_header().profile
            except _DAMAGE as err:
                raise BagError(f"it does not begin as an mcap file ({_said(err)})") from err
            index = self._index(stream)
            summary = index or self._scanned(stream)
        self._is_indexed = index is not None
        self.compression = "chunk" if any(chunk.compression for chunk in summary.chunk_indexes) else "none"
        statistics = summary.statistics
        assert statistics is not None
        counts = statistics.channel_message_counts
        self._has_records = statistics.attachment_count > 0 or any(
            record.name != ROSBAG2_RECORD for record in summary.metadata_indexes
        )
        self._topics = {c.id: _topic(c, summary, counts.get(c.id, 0)) for c in summary.channels.values()}
        self.topics = tuple(self._topics.values())
        span_ns = statistics.message_start_time, statistics.message_end_time + 1
        self.span_ns = span_ns if statistics.message_count else (0, 0)

    def messages(self, topics: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Read messages of some of its topics, ordered by log time, then by place."""
        wanted = {number: topic for number, topic in self._topics.items() if topic in topics}
        with _Stream(self._find()) as stream:
            for found in self._indexed(stream, wanted, start_ns, stop_ns) if self._is_indexed else self._sorted(stream):
                topic = wanted.get(found.channel_id)
                if topic is not None and start_ns <= found.log_time < stop_ns:
                    yield Message(topic, found.log_time, found.data, found.publish_time, found.sequence)

    def records(self) -> Records:
        """Read its attachments and metadata records, but for that of rosbag2, which follows from the messages."""
        if not self._has_records:
            return
        with _Stream(self._find()) as stream:
            for record in self._indexed_records(stream) if self._is_indexed else self._front_to_back(stream):
                if isinstance(record, Attachment) or (isinstance(record, Metadata) and record.name != ROSBAG2_RECORD):
                    yield record

    def _indexed_records(self, stream: _Stream) -> Records:
        reader = _seeking(stream)
        try:
            yield from reader.iter_metadata()
            yield from reader.iter_attachments()
        except _DAMAGE as err:
            self._findings.lose(f"{self._name} has a damaged attachment or metadata record ({_said(err)})")

    def _index(self, stream: _Stream) -> Summary | None:
        """The summary at the end of the file, if it has one that describes all of it."""
        if not stream.has_end:
            return None
        try:
            summary = _seeking(stream).get_summary()
        except _DAMAGE as err:
            self._findings.note(f"{self._name} has a damaged index ({_said(err)}): read without it")
            return None
        return summary if summary is not None and _is_complete(summary) else None

    def _indexed(self, stream: _Stream, wanted: dict[int, Topic], start: int, stop: int) -> Iterator[McapMessage]:
        names = {topic.name for topic in wanted.values()}
        reader = _seeking(stream)
        summary = reader.get_summary()
        assert summary is not None  # as when the file was opened
        for chunks in _groups(summary.chunk_indexes):
            # One group at a time, so that a damaged chunk costs no later ones.
            summary.chunk_indexes = chunks
            try:
                for _, _, message in reader.iter_messages(names, starting_at=start, ending_before=stop):
                    yield message
            except _DAMAGE as err:
                self._lose(err)

    def _sorted(self, stream: _Stream) -> Iterator[McapMessage]:
        """The messages of a file without index: writers log them nearly in order."""
        waiting: list[tuple[int, int, McapMessage]] = []
        held, numbers = 0, count()
        for record in self._front_to_back(stream):
            if isinstance(record, McapMessage):
                heappush(waiting, (record.log_time, next(numbers), record))
                held += len(record.data)
            while held > _WINDOW_BYTES:
                message = heappop(waiting)[2]
                held -= len(message.data)
                yield message
        while waiting:
            yield heappop(waiting)[2]

    def _front_to_back(self, stream: _Stream) -> Iterator[McapRecord]:
        """Records in the order of the file, those in chunks included, until its end or the first damage."""
        stream.seek(0)
        try:
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=stream.size).records:
                if isinstance(record, DataEnd | Footer):
                    return
                yield record
                if isinstance(record, Chunk):
                    yield from self._unpacked(record)
        except _DAMAGE as err:
            if stream.has_end:
                self._lose(err)
            else:
                self._findings.lose(f"{self._name} has no end, so its recording was cut off: read up to there")

    def _unpacked(self, chunk: Chunk) -> list[McapRecord]:
        try:
            return breakup_chunk(chunk, validate_crc=True)
        except _DAMAGE as err:
            self._lose(err)
            return []

    def _lose(self, err: Exception) -> None:
        if not self._is_damaged:
            self._is_damaged = True
            self._findings.lose(f"{self._name} is damaged ({_said(err)}): parts are left out")

    def _scanned(self, stream: _Stream) -> Summary:
        """What a summary would say, but for the places in the file. Raises BagError."""
        summary = Summary()
        statistics = summary.statistics = Statistics(0, 0, {}, 0, 0, 0, 2**64, 0, 0)
        counts = statistics.channel_message_counts
        for record in self._front_to_back(stream):
            if isinstance(record, McapSchema):
                summary.schemas[record.id] = record
            elif isinstance(record, Channel):
                summary.channels.setdefault(record.id, record)
            elif isinstance(record, Attachment):
                statistics.attachment_count += 1
            elif isinstance(record, Metadata):
                summary.metadata_indexes.append(MetadataIndex(0, 0, record.name))
            elif isinstance(record, Chunk):
                summary.chunk_indexes.append(ChunkIndex(0, 0, record.compression, 0, 0, 0, {}, 0, 0))
            elif isinstance(record, McapMessage) and record.channel_id in summary.channels:
                counts[record.channel_id] = counts.get(record.channel_id, 0) + 1
                statistics.message_count += 1
                statistics.message_start_time = min(statistics.message_start_time, record.log_time)
                statistics.message_end_time = max(statistics.message_end_time, record.log_time)
        if not summary.channels and not stream.has_end:
            raise BagError("it ends before its first topic")
        return summary


class _Stream(BufferedReader):
    """A file that is never asked for more bytes than it has: a damaged record may claim any length."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb", buffering=0))
        self.size = self.seek(0, 2)
        self.seek(max(0, self.size - len(MAGIC)))
        self.has_end = self.read() == MAGIC and self.size > _SHORTEST
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None else min(size, self.size))


def _seeking(stream: _Stream) -> SeekingReader:
    stream.seek(0)
    return SeekingReader(stream, validate_crcs=True, record_size_limit=stream.size)


def _is_complete(summary: Summary) -> bool:
    """Whether the index leads to everything in the file: writers may leave parts of it out."""
    statistics, channels, chunks = summary.statistics, summary.channels, summary.chunk_indexes
    return (
        statistics is not None
        and statistics.channel_message_counts.keys() <= channels.keys()
        and all(channel.schema_id == 0 or channel.schema_id in summary.schemas for channel in channels.values())
        and len(chunks) == statistics.chunk_count
        # Messages outside of chunks are not indexed.
        and (statistics.chunk_count > 0) == (statistics.message_count > 0)
        and len(summary.attachment_indexes) == statistics.attachment_count
        and len(summary.metadata_indexes) == statistics.metadata_count
    )


def _groups(chunks: Iterable[ChunkIndex]) -> Iterator[list[ChunkIndex]]:
    """Chunks in the order of time; those that overlap are in one group, as their messages have to be sorted."""
    group: list[ChunkIndex] = []
    end_ns = 0
    for chunk in sorted(chunks, key=lambda chunk: (chunk.message_start_time, chunk.chunk_start_offset)):
        if group and chunk.message_start_time > end_ns:
            yield group
            group = []
        group.append(chunk)
        end_ns = max(end_ns, chunk.message_end_time)
    if group:
        yield group


def _topic(channel: Channel, summary: Summary, messages: int) -> Topic:
    schema = summary.schemas.get(channel.schema_id)
    return Topic(
        channel.topic,
        schema.name if schema else "",
        parse_qos(channel.metadata.get(QOS_KEY, "")),
        Schema(schema.encoding, schema.data) if schema else Schema(),
        channel.metadata.get("topic_type_hash", ""),
        channel.message_encoding,
        messages,
        channel.metadata,
    )


def _said(err: Exception) -> str:
    return first_line(err).rstrip(".")
