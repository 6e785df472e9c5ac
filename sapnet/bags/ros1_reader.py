"""Reads ROS 1 bags, also those without an index: not closed (.bag.active), or cut off."""

from __future__ import annotations

from bz2 import BZ2Decompressor
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import BinaryIO

from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader
from rosbags.rosbag1.reader import Chunk, ChunkInfo, Header, IndexData, RecordType

from sapnet.errors import first_line

_MAGIC = b"#ROSBAG V2.0\n"
# As the library's, but that data may end early.
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "bz2": lambda data: BZ2Decompressor().decompress(data),
    "lz4": lambda data: bytes(LZ4FrameDecompressor().decompress(data)),
}


class Ros1Reader(Reader):
    """The library's reader, which goes by the index; where there is none, it makes one of what is there.

    no_index: why there is none, or empty.
    """

    no_index = ""

    def open(self) -> None:
        """Raises OSError, and an exception of any kind where nothing can be read."""
        try:
            super().open()
        # What the library raises depends on the byte that is wrong.
        except Exception as err:
            require_damage(err)
            if not self._make_index():
                raise
            self.no_index = first_line(err).rstrip(".")
            self.bio = self.path.open("rb")

    def _make_index(self) -> bool:
        """Read through the bag; whether there is anything in it."""
        known: dict[int, Connection] = {}
        indexes: dict[int, list[IndexData]] = {}
        with self.path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            if stream.read(len(_MAGIC)) != _MAGIC:
                return False
            for header, first, end in _records(stream, len(_MAGIC), size):
                if header.get_uint8("op") == RecordType.CHUNK:
                    stream.seek(first)
                    self._scan_chunk(header, first, stream.read(end - first), known, indexes)
        self.indexes = {number: sorted(indexes.get(number, [])) for number in known}
        self.connections = [c._replace(msgcount=len(self.indexes[number])) for number, c in known.items()]
        return bool(known)

    def _scan_chunk(
        self,
        header: Header,
        position: int,
        content: bytes,
        known: dict[int, Connection],
        indexes: dict[int, list[IndexData]],
    ) -> None:
        times: list[int] = []
        try:
            unpack = _UNPACK[header.get_string("compression")]
            records = unpack(content)
            for offset, record, op in _records_within(records):
                if op == RecordType.CONNECTION:
                    connection = self._connection(records[offset:])
                    known.setdefault(connection.id, connection)
                elif op == RecordType.MSGDATA:
                    entry = IndexData(record.get_time("time"), position, offset)
                    indexes.setdefault(record.get_uint32("conn"), []).append(entry)
                    times.append(entry.time)
        except Exception as err:  # it is read as far as it goes
            require_damage(err)
        if times:
            self.chunks[position] = Chunk(len(content), position, unpack)
            self.chunk_infos.append(ChunkInfo(position, min(times), max(times) + 1, {}))

    def _connection(self, record: bytes) -> Connection:
        self.bio = BytesIO(record)
        try:
            return self.read_connection()
        finally:
            self.bio = None


def require_damage(err: Exception) -> None:
    """Raises what is no damage: of memory, and of the system, which has numbers for it, as the unpackers have not."""
    for cause in (err, err.__cause__):
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None):
            raise cause


def _records(stream: BinaryIO, position: int, size: int) -> Iterator[tuple[Header, int, int]]:
    """Headers of the records from a position on, and where their data begin and end; the last one's may be cut off."""
    while (begun := _begun(stream, position, size)) is not None:
        header, first, length = begun
        # A chunk that was not closed has no length yet: all that follows is in it.
        is_open = header.get("op") == bytes([RecordType.CHUNK]) and not length
        position = size if is_open else first + length
        yield header, first, min(position, size)


def _records_within(records: bytes) -> Iterator[tuple[int, Header, int]]:
    """Where the whole records of an unpacked chunk begin, their headers and kinds."""
    offset, stream = 0, BytesIO(records)
    while (begun := _begun(stream, offset, len(records))) is not None:
        header, first, length = begun
        if first + length > len(records):
            return
        yield offset, header, header.get_uint8("op")
        offset = first + length


def _begun(stream: BinaryIO, position: int, size: int) -> tuple[Header, int, int] | None:
    """A record's header, where its data begin and their length; None where there is none that is whole."""
    if position + 8 > size:
        return None
    stream.seek(position)
    first = position + 4 + int.from_bytes(stream.read(4), "little")
    if first + 4 > size:
        return None
    stream.seek(position)
    try:
        header = Header.read(stream)
        header.get_uint8("op")
    except Exception as err:
        require_damage(err)
        return None
    return header, first + 4, int.from_bytes(stream.read(4), "little")
