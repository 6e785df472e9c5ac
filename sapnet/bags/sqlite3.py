"""One sqlite3 file of a rosbag2 recording, of any of its versions, whole or cut off."""

from __future__ import annotations

import errno
import shutil
from array import array
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw
import numpy as np
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from sapnet.bags.recording import Message, Topic
from sapnet.bags.types import FORMATS, parsed_qos
from sapnet.errors import BagError, first_line

_MAGIC = b"SQLite format 3\0"
# What a writer that was killed leaves beside the database: changes to make, or to take back.
_LOGS = ("-wal", "-journal")


@dataclass
class _Rows:
    """Numbers, times and topics of the messages that can be read of a damaged database, in the order of their times."""

    numbers: array[int]
    times: array[int]
    topics: array[int]

    def sorted(self) -> Iterator[tuple[int, int, int]]:
        order = np.lexsort((np.array(self.numbers, np.int64), np.array(self.times, np.int64)))
        return ((self.numbers[i], self.times[i], self.topics[i]) for i in order)


class Sqlite3File:
    """A database of a recording. topics: those in it. span_ns: log times of its first message and its last, or None.

    scratch: an empty folder, for a copy of a database that was not closed. say: takes what is wrong with the file, a
    sentence each. Raises BagError where nothing can be read, OSError.
    """

    compression = "none"

    def __init__(self, path: Path, scratch: Path, say: Callable[[str], None]) -> None:
        self._name = path.name
        self._say = say
        self._damage_said = False
        self._path = path
        self._vfs = _WHOLE_PAGES.name if _said_size(path) > path.stat().st_size else None
        logs = [log for log in (path.with_name(path.name + end) for end in _LOGS) if _is_filled(log)]
        if logs:
            say(f"{path.name} was not closed: its log beside it is read too")
            self._path, self._vfs = _merged(path, logs, scratch / path.name), None
        self._damaged: _Rows | None = None
        with self._database() as database:
            self._topics = _topics(database)
            try:
                if self._vfs is not None:  # then the index lacks what the table may still have
                    raise _CutOff("it is cut off")
                counted = _counted(database)
            except apsw.Error as err:
                _require_damage(err)
                say(f"{path.name} is damaged ({first_line(err)}): read as far as it goes")
                self._damaged, counted = _readable(database)
        self.topics = tuple(self._counted_topic(number, counted) for number in self._topics)
        self._topics = dict(zip(self._topics, self.topics, strict=True))
        spans = [(first, last) for number, (_, first, last) in counted.items() if number in self._topics]
        self.span_ns = (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    def messages(
        self, keys: Collection[tuple[str, str]], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Message]:
        """Messages of topics with these names and types, in the order of their log times, then of their arrival."""
        wanted = {n for n, topic in self._topics.items() if topic.count and (topic.name, topic.type) in keys}
        if not wanted:  # to find nothing takes as long as to find all
            return
        first = -(2**63) if start_ns is None else start_ns
        last = 2**63 - 1 if stop_ns is None else stop_ns - 1
        with self._database() as database:
            rows = self._damaged.sorted() if self._damaged is not None else _rows(database, first, last)
            for number, time_ns, topic in rows:
                if topic not in wanted or not first <= time_ns <= last:
                    continue
                try:
                    data = database.execute("SELECT data FROM messages WHERE id = ?", (number,)).get
                    if not isinstance(data, bytes):
                        raise TypeError("it holds no bytes")
                except (apsw.Error, TypeError) as err:
                    _require_damage(err)
                    if self._damaged is not None:
                        return
                    self._say_damage(f"message {number}: {first_line(err)}")
                else:
                    yield Message(self._topics[topic], time_ns, data)

    @contextmanager
    def _database(self) -> Iterator[apsw.Connection]:
        """Read without a trace: no lock, no file beside it."""
        uri = f"{self._path.absolute().as_uri()}?immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            with closing(apsw.Connection(uri, flags, vfs=self._vfs)) as database:
                yield database
        except apsw.Error as err:
            _require_damage(err)
            raise

    def _counted_topic(self, number: int, counted: dict[int, tuple[int, int, int]]) -> Topic:
        topic = self._topics[number]
        count = counted.get(number, (0, 0, 0))[0]
        return Topic(topic.name, topic.type, topic.qos, topic.definition, topic.digest, topic.serialization, count)

    def _say_damage(self, what: str) -> None:
        if not self._damage_said:
            self._damage_said = True
            self._say(f"{self._name} is damaged ({what}): parts are left out")


class _CutOff(apsw.IOError):
    """What is to be read lies beyond the end of a database that is cut off."""


class _File(apsw.VFSFile):
    """A database that is cut off, as large as it was; what it lacks of that cannot be read.

    SQLite on its own takes what is missing at the end of a message for zeros.
    """

    def __init__(self, name: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._size = super().xFileSize()
        self._said_size = _said_size(Path(name if isinstance(name, str) else name.filename()))

    def xFileSize(self) -> int:
        return self._said_size

    def xRead(self, amount: int, offset: int) -> bytes:
        if offset + amount > self._size:
            raise _CutOff("it is cut off")
        return super().xRead(amount, offset)


class _Vfs(apsw.VFS):
    name = "sapnet_whole_pages"

    def __init__(self) -> None:
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        # What has no name is for SQLite itself, to sort in.
        return _File(name, flags) if name is not None else super().xOpen(name, flags)


_WHOLE_PAGES = _Vfs()


def _require_damage(err: Exception) -> None:
    """Raises OSError or MemoryError where it is not the database that is at fault, but what it is read from."""
    if isinstance(err, apsw.NoMemError):
        raise MemoryError from err
    if isinstance(err, apsw.IOError | apsw.FullError | apsw.CantOpenError) and not isinstance(err, _CutOff):
        raise OSError(errno.EIO, first_line(err)) from err


def _said_size(path: Path) -> int:
    """How large a database says it is, in bytes. Raises BagError."""
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise BagError("it does not begin as a sqlite3 file")
    page_bytes, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    return pages * (65536 if page_bytes == 1 else page_bytes)


def _is_filled(log: Path) -> bool:
    return log.is_file() and log.stat().st_size > 0


def _merged(path: Path, logs: list[Path], copy: Path) -> Path:
    """A copy of a database, with what stands in its logs."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        for file in (path, *logs):
            shutil.copyfile(file, copy.with_name(copy.name + file.name[len(path.name) :]))
        with closing(apsw.Connection(str(copy))) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("PRAGMA journal_mode=DELETE").fetchall()
    except OSError as err:
        raise OSError(err.errno, f"{err.strerror}, for a copy in {copy.parent}; set TMPDIR to a larger disk") from err
    except apsw.Error as err:
        _require_damage(err)
        raise BagError(f"it and its log cannot be read: {err}") from err
    return copy


def _topics(database: apsw.Connection) -> dict[int, Topic]:
    try:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"messages", "topics"} <= tables:
            raise BagError("it has no tables of messages and topics")
        definitions: dict[str, MessageDefinition] = {}
        if "message_definitions" in tables:
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            for name, encoding, text in database.execute(query):
                if encoding in FORMATS and text:
                    definitions.setdefault(name, MessageDefinition(FORMATS[encoding], text))
        cursor = database.execute("SELECT * FROM topics ORDER BY id")
        rows = [dict(zip((name for name, _ in cursor.get_description()), row, strict=True)) for row in cursor]
    except (apsw.Error, ValueError) as err:
        _require_damage(err)
        raise BagError(f"it is damaged before its first message: {first_line(err)}") from err
    none = MessageDefinition(MessageDefinitionFormat.NONE, "")
    return {
        row["id"]: Topic(
            row["name"],
            row["type"],
            parsed_qos(row.get("offered_qos_profiles", "")),
            definitions.get(row["type"], none),
            row.get("type_description_hash") or "",
            row["serialization_format"],
            0,
        )
        for row in rows
    }


def _counted(database: apsw.Connection) -> dict[int, tuple[int, int, int]]:
    """Messages of each topic, and the times of its first and its last. Raises apsw.Error."""
    query = "SELECT topic_id, COUNT(*), MIN(timestamp), MAX(timestamp) FROM messages GROUP BY topic_id"
    return {topic: (count, first, last) for topic, count, first, last in database.execute(query)}


def _rows(database: apsw.Connection, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Numbers, times and topics. Without the data: those would be sorted with them where there is no index."""
    query = "SELECT id, timestamp, topic_id FROM messages WHERE timestamp BETWEEN ? AND ? ORDER BY timestamp, id"
    return database.execute(query, (first, last))


def _readable(database: apsw.Connection) -> tuple[_Rows, dict[int, tuple[int, int, int]]]:
    """What can be read of a damaged database, and its count."""
    rows = _Rows(array("q"), array("q"), array("q"))
    counted: dict[int, tuple[int, int, int]] = {}
    try:
        # Read in the order in which it was written, past the index that stands anywhere.
        for number, time_ns, topic in database.execute("SELECT id, timestamp, topic_id FROM messages ORDER BY id"):
            rows.numbers.append(number)
            rows.times.append(time_ns)
            rows.topics.append(topic)
            count, first, last = counted.get(topic, (0, time_ns, time_ns))
            counted[topic] = count + 1, min(first, time_ns), max(last, time_ns)
    except (apsw.Error, TypeError) as err:  # the page that is not there any more
        _require_damage(err)
        shortest = min(map(len, (rows.numbers, rows.times, rows.topics)))
        for column in (rows.numbers, rows.times, rows.topics):
            del column[shortest:]
    return rows, counted
