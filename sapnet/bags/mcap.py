"""Reads one mcap file: by its index, or by one that is made from its content if it has none or was cut off."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Sized
from contextlib import contextmanager
from heapq import heappop, heappush
from io import BufferedReader
from pathlib import Path

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import (
    Attachment,
    AttachmentIndex,
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

from sapnet.bags.recording import LAST_NS, QOS_KEY, Findings, Message, Schema, StoredFile, Topic
from sapnet.bags.types import parse_qos
from sapnet.errors import BagError, first_line

# The metadata record in which rosbag2 repeats metadata.yaml.
ROSBAG2_RECORD = "rosbag2"
MAGIC = b"\x89MCAP0\r\n"
# Messages outside of chunks are read in runs of at most this size.
_RUN_BYTES = 2**23

_SHORTEST = 2 * len(MAGIC) + 29  # of a file with an end: two magics and a footer

# What the mcap library and its decompressors raise for damaged bytes; RuntimeError is lz4's.
_DAMAGE = (McapError, ZstdError, ValueError, KeyError, OverflowError, struct.error, RuntimeError)


class McapFile(StoredFile):
    """An mcap file; its topics are its channels."""

    def __init__(self, find: Callable[[], Path], findings: Findings) -> None:
        super().__init__(find, findings)
        self._is_damaged = False
        with _Stream(find()) as stream:
            try:
                reader = SeekingReader(stream, validate_crcs=True, record_size_limit=stream.size)
                self.profile = reader.get_header().profile
            except _DAMAGE as err:
                raise BagError(f"it does not begin as an mcap file ({first_line(err)})") from err
            summary = (self._index(reader) if stream.has_end else None) or self._made_index(stream)
        statistics = summary.statistics
        assert statistics is not None
        counts = statistics.channel_message_counts
        self._topics = {c.id: _topic(c, summary, counts.get(c.id, 0)) for c in summary.channels.values()}
        self.topics = tuple(self._topics.values())
        span_ns = statistics.message_start_time, statistics.message_end_time + 1
        self.span_ns = span_ns if statistics.message_count else (0, 0)
        self.compression = "chunk" if any(chunk.compression for chunk in summary.chunk_indexes) else "none"
        self._chunks = sorted(summary.chunk_indexes, key=lambda c: (c.message_start_time, c.chunk_start_offset))
        self._records = [record.offset for record in summary.metadata_indexes if record.name != ROSBAG2_RECORD]
        self._records += [record.offset for record in summary.attachment_indexes]

    def messages(self, topics: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Read messages of some of its topics, ordered by log time, then by place."""
        wanted = {number: topic for number, topic in self._topics.items() if topic in topics}
        # By log time and place, as chunks may overlap in time.
        waiting: list[tuple[int, int, int, McapMessage]] = []

        def before(time_ns: int) -> Iterator[Message]:
            while waiting and waiting[0][0] < time_ns:
                found = heappop(waiting)[-1]
                if start_ns <= found.log_time < stop_ns:
                    topic = wanted[found.channel_id]
                    yield Message(topic, found.log_time, found.data, found.publish_time, found.sequence)

        with _Stream(self._find()) as stream:
            for chunk in self._chunks:
                is_in_time = chunk.message_start_time < stop_ns and start_ns <= chunk.message_end_time
                inside = chunk.message_index_offsets.keys()  # empty if nobody knows
                if is_in_time and (not inside or inside & wanted.keys()):
                    yield from before(chunk.message_start_time)
                    for place, found in enumerate(self._content(stream, chunk)):
                        if isinstance(found, McapMessage) and found.channel_id in wanted:
                            heappush(waiting, (found.log_time, chunk.chunk_start_offset, place, found))
            yield from before(LAST_NS)

    def records(self) -> Iterator[Attachment | Metadata]:
        """Read its attachments and metadata records, but for that of rosbag2, which follows from the messages."""
        with _Stream(self._find()) as stream:
            for place in self._records:
                with self._losing_damage():
                    stream.seek(place)
                    record = next(StreamReader(stream, skip_magic=True, record_size_limit=stream.size).records, None)
                    if isinstance(record, Attachment | Metadata):
                        yield record

    def _content(self, stream: _Stream, chunk: ChunkIndex) -> list[McapRecord]:
        with self._losing_damage():
            if isinstance(chunk, _Run):
                stream.seek(chunk.chunk_start_offset)
                return breakup_chunk(Chunk("", stream.read(chunk.chunk_length), 0, 0, 0, 0))
            stream.seek(chunk.chunk_start_offset + 9)  # behind its opcode and length
            return breakup_chunk(Chunk.read(ReadDataStream(stream)), validate_crc=True)
        return []

    @contextmanager
    def _losing_damage(self, was_cut_off: bool = False) -> Iterator[None]:
        """Note what damage costs, once however often it is met."""
        try:
            yield
        except _DAMAGE as err:
            if was_cut_off:
                self._findings.lose(f"{self._name} has no end, so its recording was cut off: read up to there")
            elif not self._is_damaged:
                self._is_damaged = True
                self._findings.lose(f"{self._name} is damaged ({first_line(err)}): parts are left out")

    def _index(self, reader: SeekingReader) -> Summary | None:
        """The summary at the end of the file, if it has one that describes all of it."""
        try:
            summary = reader.get_summary()
        except _DAMAGE as err:
            self._findings.note(f"{self._name} has a damaged index ({first_line(err)}): read without it")
            return None
        return summary if summary is not None and _is_complete(summary) else None

    def _made_index(self, stream: _Stream) -> Summary:
        """What a summary would say of the file, until its end or the first damage. Raises BagError."""
        summary, end = Summary(), len(MAGIC)
        summary.statistics = Statistics(0, 0, {}, 0, 0, 0, LAST_NS, 0, 0)
        chunks = summary.chunk_indexes
        stream.seek(0)
        with self._losing_damage(was_cut_off=not stream.has_end):
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=stream.size).records:
                start, end = end, stream.tell()
                if isinstance(record, DataEnd | Footer):
                    break
                if isinstance(record, Attachment):
                    summary.attachment_indexes.append(AttachmentIndex(start, 0, 0, 0, 0, record.name, ""))
                elif isinstance(record, Metadata):
                    summary.metadata_indexes.append(MetadataIndex(start, 0, record.name))
                elif isinstance(record, Chunk):
                    chunks.append(ChunkIndex(0, start, record.compression, 0, 0, 0, {}, LAST_NS, 0))
                    with self._losing_damage():
                        for found in breakup_chunk(record, validate_crc=True):
                            _add(found, summary)
                else:
                    if not (
                        chunks and isinstance(chunks[-1], _Run) and end - chunks[-1].chunk_start_offset <= _RUN_BYTES
                    ):
                        chunks.append(_Run(0, start, "", 0, 0, 0, {}, LAST_NS, 0))
                    chunks[-1].chunk_length = end - chunks[-1].chunk_start_offset
                    _add(record, summary)
        if not summary.channels and not stream.has_end:
            raise BagError("it ends before its first topic")
        return summary


class _Run(ChunkIndex):
    """Successive messages outside of chunks, which are read as if they were one."""


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


def _add(found: McapRecord, summary: Summary) -> None:
    """Add what the last chunk holds to a summary."""
    statistics, chunk = summary.statistics, summary.chunk_indexes[-1]
    assert statistics is not None
    if isinstance(found, McapSchema):
        summary.schemas[found.id] = found
    elif isinstance(found, Channel):
        summary.channels.setdefault(found.id, found)
    elif isinstance(found, McapMessage) and found.channel_id in summary.channels:
        counts = statistics.channel_message_counts
        counts[found.channel_id] = counts.get(found.channel_id, 0) + 1
        statistics.message_count += 1
        chunk.message_index_offsets[found.channel_id] = 0
        for span in (statistics, chunk):
            span.message_start_time = min(span.message_start_time, found.log_time)
            span.message_end_time = max(span.message_end_time, found.log_time)


def _is_complete(summary: Summary) -> bool:
    """Whether the index leads to everything in the file: writers may leave parts of it out."""
    statistics, channels = summary.statistics, summary.channels
    indexes: tuple[Sized, ...] = (summary.chunk_indexes, summary.attachment_indexes, summary.metadata_indexes)
    return (
        statistics is not None
        and statistics.channel_message_counts.keys() <= channels.keys()
        and all(channel.schema_id == 0 or channel.schema_id in summary.schemas for channel in channels.values())
        and [*map(len, indexes)] == [statistics.chunk_count, statistics.attachment_count, statistics.metadata_count]
        # Messages outside of chunks are not indexed.
        and (statistics.chunk_count > 0) == (statistics.message_count > 0)
    )


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
