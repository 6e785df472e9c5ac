"""Bytes of an mcap file that hold messages, chunks and what stands outside of them, and the records in those."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

import lz4.frame as lz4  # type: ignore[import-untyped]
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Chunk
from mcap.stream_reader import get_chunk_data_stream

from sapnet.bags.types import zstd

RECORD = struct.Struct("<BQ")  # opcode, length
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time; data follow
_COMPRESSIONS = ("", "lz4", "zstd")
# What claims to be larger when it is unpacked is damaged: memory would end before the damage is noticed.
_PLAUSIBLE_BYTES = 2**32
_CHUNK_COMPRESSION = RECORD.size + 28  # where its name stands in a chunk's record


@dataclass(frozen=True)
class Piece:
    """Bytes of the file that hold messages: a chunk's record, or messages that stand outside of chunks.

    start_ns, end_ns: log times of the first message and the last. channels: that have messages in it; None if unknown.
    is_cut: a chunk that the file's end cuts off.
    """

    offset: int
    size: int
    start_ns: int
    end_ns: int
    is_chunk: bool
    channels: frozenset[int] | None
    is_cut: bool = False


@dataclass
class Found:
    """What a pass through messages tells of them."""

    counts: Counter[int] = field(default_factory=Counter)
    start_ns: int = 2**64
    end_ns: int = -1

    def add(self, channel: int, time_ns: int) -> None:
        self.counts[channel] += 1
        self.start_ns = min(self.start_ns, time_ns)
        self.end_ns = max(self.end_ns, time_ns)


def read_piece(stream: BinaryIO, piece: Piece) -> tuple[bytes, str]:
    """The records in a piece, and how they were compressed.

    Raises ValueError where the piece is not there or has another checksum, and what the decompressors raise.
    """
    stream.seek(piece.offset)
    content = stream.read(piece.size)
    if len(content) != piece.size:
        raise ValueError("it is cut off")
    if not piece.is_chunk:
        return content, ""
    return _begun(content) if piece.is_cut else _unpacked(content)


def walk(records: bytes, whole: bool = True) -> Iterator[tuple[int, int, int]]:
    """Opcodes, and where the content begins and ends. Raises ValueError where the last one is not ``whole``."""
    position = 0
    while position + RECORD.size <= len(records):
        opcode, length = RECORD.unpack_from(records, position)
        first = position + RECORD.size
        if first + length > len(records) or (opcode == Opcode.MESSAGE and length < MESSAGE.size):
            break
        position = first + length
        yield opcode, first, position
    if whole and position < len(records):
        raise ValueError("a record is cut off")


def require_plausible(size: int | None) -> None:
    """Raises ValueError where nothing is as large as something that is compressed claims to be."""
    if size is not None and size > _PLAUSIBLE_BYTES:
        raise ValueError(f"it claims {size} bytes")


def _claimed_size(chunk: Chunk) -> int | None:
    if chunk.compression == "zstd":
        return zstd.get_frame_info(chunk.data).decompressed_size
    size: int | None = lz4.get_frame_info(chunk.data)["content_size"]
    return size


def _unpacked(record: bytes) -> tuple[bytes, str]:
    opcode, _ = RECORD.unpack_from(record)
    chunk = Chunk.read(ReadDataStream(BytesIO(record[RECORD.size :])))
    if opcode != Opcode.CHUNK or chunk.compression not in _COMPRESSIONS:
        raise ValueError(f"there is no chunk, or one of compression {chunk.compression!r}")
    require_plausible(chunk.uncompressed_size)
    if chunk.compression:
        require_plausible(_claimed_size(chunk))
    stream, size = get_chunk_data_stream(chunk, validate_crc=True)
    if size != chunk.uncompressed_size:
        raise ValueError(f"a chunk has {size} bytes instead of {chunk.uncompressed_size}")
    return stream.read(size), chunk.compression


def _begun(record: bytes) -> tuple[bytes, str]:
    """What is there of a chunk that is cut off."""
    (length,) = struct.unpack_from("<I", record, _CHUNK_COMPRESSION)
    first = _CHUNK_COMPRESSION + 4 + length
    compression, data = record[first - length : first].decode(), record[first + 8 :]
    if compression == "zstd":
        data = zstd.ZstdDecompressor().decompress(data)
    elif compression == "lz4":
        data = lz4.LZ4FrameDecompressor().decompress(data)
    return data, compression
