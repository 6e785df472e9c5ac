"""One mcap file: by its index, or by a pass through all of it where there is none; messages by their log times."""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from heapq import heapify, heappop
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema, Statistics
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from sapnet.bags.mcap_pieces import MESSAGE, RECORD, Found, Piece, read_piece, walk
from sapnet.bags.recording import Message, Topic
from sapnet.bags.types import FORMATS, parsed_qos
from sapnet.errors import BagError, first_line

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER = struct.Struct("<BQQQI8s")  # opcode, length, start of the summary, of its offsets, checksum, magic
# Messages outside of chunks are taken together up to this size.
_RUN_BYTES = 2**20
# An index that claims more than this is none; that of a terabyte has 200 MB.
_INDEX_BYTES = 2**30


class McapFile:
    """An mcap file. topics: of each of its channels. span_ns: log times of its first message and its last, or None.

    compression: ``chunk`` or ``none``. say: takes what is wrong with the file, a sentence each.
    Raises BagError where nothing can be read, OSError.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._damage_said = False
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._pieces: list[Piece] = []
        self.compression = "none"
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise BagError("it does not begin as an mcap file")
            self._read(stream)
        self._topics = {number: self._topic(channel) for number, channel in self._channels.items()}
        self.topics = tuple(self._topics.values())
        spans = [(piece.start_ns, piece.end_ns) for piece in self._pieces if piece.channels or piece.channels is None]
        spans = spans if self._counts.total() else []
        self.span_ns = (min(start for start, _ in spans), max(end for _, end in spans)) if spans else None

    def messages(
        self, keys: Collection[tuple[str, str]], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Message]:
        """Messages of topics with these names and types, in the order of their log times, then of their places."""
        wanted = {number for number, topic in self._topics.items() if (topic.name, topic.type) in keys}
        begin = -1 if start_ns is None else start_ns
        stop = 2**64 if stop_ns is None else stop_ns
        pieces = deque(
            piece
            for piece in sorted(self._pieces, key=lambda piece: (piece.start_ns, piece.offset))
            if piece.start_ns < stop
            and begin <= piece.end_ns
            and (piece.channels is None or not wanted.isdisjoint(piece.channels))
        )
        # Time, piece, place in it (no two are equal in all of these), its end, channel, and in which bytes.
        waiting: list[tuple[int, int, int, int, int, bytes]] = []
        with self._path.open("rb") as stream:
            while pieces or waiting:
                while pieces and (not waiting or pieces[0].start_ns <= waiting[0][0]):
                    piece = pieces.popleft()
                    for opcode, first, end, records in self._records(stream, piece):
                        if opcode == Opcode.MESSAGE:
                            channel, _, time_ns, _ = MESSAGE.unpack_from(records, first)
                            if channel in wanted and begin <= time_ns < stop:
                                data = first + MESSAGE.size
                                waiting.append((time_ns, piece.offset, data, end, channel, records))
                    heapify(waiting)
                if waiting:
                    time_ns, _, first, end, channel, records = heappop(waiting)
                    yield Message(self._topics[channel], time_ns, records[first:end])

    def _read(self, stream: BinaryIO) -> None:
        """Find out what is where."""
        try:
            if self._read_index(stream):
                return
        except (OSError, MemoryError):
            raise
        # What is raised here and below depends on the byte that is wrong.
        except Exception as err:
            self._say(f"{self._path.name} has a damaged index ({_said(err)}): read through instead")
        self._schemas, self._channels, self._counts, self._pieces = {}, {}, Counter(), []
        if not self._scan(stream):
            self._say(f"{self._path.name} has no end, so its recording was cut off: read as far as it goes")
            if not self._channels:
                raise BagError("it ends before its first topic")

    def _read_index(self, stream: BinaryIO) -> bool:
        """Whether the file has an index that tells all. Raises an exception of any kind where it is damaged."""
        size = stream.seek(0, 2)
        if size < len(_MAGIC) + _FOOTER.size:
            return False
        stream.seek(size - _FOOTER.size)
        footer = stream.read(_FOOTER.size)
        opcode, length, start, _, checksum, magic = _FOOTER.unpack(footer)
        if (opcode, length, magic) != (Opcode.FOOTER, 20, _MAGIC) or start == 0:
            return False
        if not max(len(_MAGIC), size - _INDEX_BYTES) <= start <= size - _FOOTER.size:
            raise ValueError("it is said to begin where it cannot")
        stream.seek(start)
        summary = stream.read(size - _FOOTER.size - start)
        if checksum and checksum != crc32(summary + footer[: -len(_MAGIC) - 4]):
            raise ValueError("its checksum is wrong")
        return self._take_index(summary, start)

    def _take_index(self, summary: bytes, data_end: int) -> bool:
        statistics: Statistics | None = None
        for opcode, first, end in walk(summary):
            stream = ReadDataStream(BytesIO(summary[first:end]))
            if opcode == Opcode.STATISTICS:
                statistics = Statistics.read(stream)
            elif opcode == Opcode.CHUNK_INDEX:
                self._add_chunk(ChunkIndex.read(stream), data_end)
            else:
                self._take_description(opcode, stream)
        if statistics is None:
            return False
        self._counts = Counter(statistics.channel_message_counts)
        described = all(c.schema_id == 0 or c.schema_id in self._schemas for c in self._channels.values())
        return (
            described
            and self._counts.total() == statistics.message_count
            and self._counts.keys() <= self._channels.keys()
            and len(self._pieces) == statistics.chunk_count
            # Messages outside of chunks are not indexed.
            and (statistics.chunk_count > 0 or statistics.message_count == 0)
        )

    def _add_chunk(self, index: ChunkIndex, data_end: int) -> None:
        if index.chunk_start_offset + index.chunk_length > data_end:
            raise ValueError("it names a chunk beyond the messages")
        if index.compression:
            self.compression = "chunk"
        channels = frozenset(index.message_index_offsets) if index.message_index_offsets else None
        times = index.message_start_time, index.message_end_time
        if times[0] <= times[1]:
            self._pieces.append(Piece(index.chunk_start_offset, index.chunk_length, *times, True, channels))
        else:  # of one without messages
            self._pieces.append(Piece(index.chunk_start_offset, index.chunk_length, 0, 0, True, frozenset()))

    def _take_description(self, opcode: int, stream: ReadDataStream) -> None:
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self._schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(stream)
            self._channels.setdefault(channel.id, channel)

    def _scan(self, stream: BinaryIO) -> bool:
        """Read through the file; whether it goes to its end."""
        size = stream.seek(0, 2)
        position = run_start = len(_MAGIC)
        run = Found()

        def end_run() -> None:
            nonlocal run, run_start
            if run.counts:
                self._take_piece(run, Piece(run_start, position - run_start, 0, 0, False, None))
            run, run_start = Found(), position

        while position + RECORD.size <= size:
            stream.seek(position)
            opcode, length = RECORD.unpack(stream.read(RECORD.size))
            end = position + RECORD.size + length
            if end > size or opcode in (0, Opcode.DATA_END, Opcode.FOOTER):
                end_run()
                if opcode == Opcode.CHUNK:
                    self._scan_chunk(stream, Piece(position, size - position, 0, 0, True, None, is_cut=True))
                return opcode in (Opcode.DATA_END, Opcode.FOOTER) and self._has_end(stream, size)
            if opcode == Opcode.MESSAGE and length >= MESSAGE.size:
                channel, _, time_ns, _ = MESSAGE.unpack(stream.read(MESSAGE.size))
                run.add(channel, time_ns)
                position = end
                if position - run_start >= _RUN_BYTES:
                    end_run()
                continue
            end_run()
            if opcode == Opcode.CHUNK:
                self._scan_chunk(stream, Piece(position, end - position, 0, 0, True, None))
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._take_description(opcode, ReadDataStream(BytesIO(stream.read(length))))
            position = run_start = end
        end_run()
        return False

    def _has_end(self, stream: BinaryIO, size: int) -> bool:
        stream.seek(size - len(_MAGIC))
        return stream.read() == _MAGIC

    def _scan_chunk(self, stream: BinaryIO, piece: Piece) -> None:
        found = Found()
        for opcode, first, end, records in self._records(stream, piece):
            if opcode == Opcode.MESSAGE:
                channel, _, time_ns, _ = MESSAGE.unpack_from(records, first)
                found.add(channel, time_ns)
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._take_description(opcode, ReadDataStream(BytesIO(records[first:end])))
        self._take_piece(found, piece)

    def _take_piece(self, found: Found, piece: Piece) -> None:
        # Nobody can read messages of a channel that is nowhere described.
        known = frozenset(found.counts) & self._channels.keys()
        if known:
            self._counts.update({number: found.counts[number] for number in known})
            self._pieces.append(replace(piece, start_ns=found.start_ns, end_ns=found.end_ns, channels=known))

    def _records(self, stream: BinaryIO, piece: Piece) -> Iterator[tuple[int, int, int, bytes]]:
        """Opcodes of the records in a piece, where their content begins and ends, in which bytes."""
        try:
            records, compression = read_piece(stream, piece)
            found = list(walk(records, whole=not piece.is_cut))
        except (OSError, MemoryError):
            raise
        except Exception as err:
            if not self._damage_said and not piece.is_cut:
                self._damage_said = True
                self._say(
                    f"{self._path.name} is damaged from byte {piece.offset} on ({_said(err)}): parts are left out"
                )
            return
        if compression:
            self.compression = "chunk"
        for opcode, first, end in found:
            yield opcode, first, end, records

    def _topic(self, channel: Channel) -> Topic:
        schema = self._schemas.get(channel.schema_id)
        kind = FORMATS.get(schema.encoding, MessageDefinitionFormat.NONE) if schema else MessageDefinitionFormat.NONE
        described = schema is not None and schema.data and kind != MessageDefinitionFormat.NONE
        none = MessageDefinition(MessageDefinitionFormat.NONE, "")
        topic = Topic(
            channel.topic,
            schema.name if schema else "",
            parsed_qos(channel.metadata.get("offered_qos_profiles", "")),
            MessageDefinition(kind, schema.data.decode(errors="replace")) if schema and described else none,
            channel.metadata.get("topic_type_hash", ""),
            channel.message_encoding,
            0,
        )
        return replace(topic, count=self._counts[channel.id])


def _said(err: Exception) -> str:
    return first_line(err).rstrip(".")
