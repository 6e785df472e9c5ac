"""Reads one sqlite3 file of a rosbag2 recording, of any version."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from sapnet.bags.metadata import parse_qos
from sapnet.bags.recording import Findings, Message, Records, Schema, Topic
from sapnet.errors import BagError, first_line

_MAGIC = b"SQLite format 3\0"
# What a killed writer leaves beside the database: changes to apply, or to roll back.
_LOGS = ("-wal", "-journal")
_STORAGE_ERRORS = ("disk I/O error", "database or disk is full", "unable to open database file")


class Sqlite3File:
    """A database of a recording. topics: those in it. span_ns: log times of its first and last message, or None.

    scratch: an empty folder, for a copy of a database that was not closed.
    Raises BagError if nothing can be read, OSError.
    """

    compression = "none"
    profile = "ros2"
    has_records = False

    def __init__(self, path: Path, scratch: Path, findings: Findings) -> None:
        self._name = path.name
        self._path = path
        self._findings = findings
        logs = [log for log in (path.with_name(path.name + end) for end in _LOGS) if _is_filled(log)]
        if logs:
            findings.note(f"{path.name} was not closed: the log beside it is read too")
            self._path = _merged(path, logs, scratch / path.name)
        _require_whole(self._path, path.name)
        try:
            with self._database() as database:
                topics = _topics(database)
                spans = _spans(database)
        except sqlite3.DatabaseError as err:
            raise BagError(f"it is damaged ({first_line(err)}); {_advice(path.name)}") from err
        self._topics = {
            number: replace(topic, count=spans.get(number, (0, 0, 0))[0]) for number, topic in topics.items()
        }
        self.topics = tuple(self._topics.values())
        times = [(first, last) for number, (_, first, last) in spans.items() if number in self._topics]
        self.span_ns = (min(first for first, _ in times), max(last for _, last in times)) if times else None

    def messages(self, topics: Collection[Topic], start_ns: int | None, stop_ns: int | None) -> Iterator[Message]:
        """Read messages of some of its topics, ordered by log time, then by arrival."""
        wanted = {number: topic for number, topic in self._topics.items() if topic in topics and topic.count}
        if not wanted:  # a query without result scans the whole database
            return
        first = -(2**63) if start_ns is None else start_ns
        last = 2**63 - 1 if stop_ns is None else min(stop_ns - 1, 2**63 - 1)
        query = """SELECT topic_id, timestamp, data FROM messages
            WHERE timestamp BETWEEN ? AND ? AND topic_id IN (SELECT value FROM json_each(?)) ORDER BY timestamp, id"""
        try:
            with self._database() as database:
                for number, time_ns, data in database.execute(query, (first, last, json.dumps(list(wanted)))):
                    yield Message(wanted[number], time_ns, data)
        except sqlite3.DatabaseError as err:
            said = f"{self._name} is damaged ({first_line(err)}): read up to there; {_advice(self._name)}"
            self._findings.lose(said)

    def records(self) -> Records:
        """None: sqlite3 holds no attachments."""
        return iter(())

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Read without a trace: no lock, no file beside it. Raises OSError if the storage fails."""
        uri = f"{self._path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as database:
                yield database
        except sqlite3.OperationalError as err:
            if str(err).startswith(_STORAGE_ERRORS):
                raise OSError(errno.EIO, str(err)) from err
            raise


def _require_whole(path: Path, name: str) -> None:
    """Raises BagError if the file is no database, or shorter than its header says."""
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise BagError("it does not begin as a sqlite3 file")
    page_bytes, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    if pages * (65536 if page_bytes == 1 else page_bytes) > path.stat().st_size:
        raise BagError(f"it is cut off; {_advice(name)}")


def _advice(name: str) -> str:
    return f"`sqlite3 {name} .recover | sqlite3 recovered.db3` saves what is left of it"


def _is_filled(log: Path) -> bool:
    return log.is_file() and log.stat().st_size > 0


def _merged(path: Path, logs: list[Path], copy: Path) -> Path:
    """A copy of a database with its logs applied."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        for file in (path, *logs):
            shutil.copyfile(file, copy.with_name(copy.name + file.name[len(path.name) :]))
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("PRAGMA journal_mode=DELETE").fetchall()
    except OSError as err:
        raise OSError(err.errno, f"{err.strerror}, for a copy in {copy.parent}; set TMPDIR to a larger disk") from err
    except sqlite3.DatabaseError as err:
        raise BagError(f"the database and its log cannot be merged ({err}); {_advice(path.name)}") from err
    return copy


def _topics(database: sqlite3.Connection) -> dict[int, Topic]:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"messages", "topics"} <= tables:
        raise BagError("it has no tables of messages and topics")
    schemas: dict[str, Schema] = {}
    if "message_definitions" in tables:
        query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        for name, encoding, text in database.execute(query):
            if text:
                schemas.setdefault(name, Schema(encoding, text.encode()))
    cursor = database.execute("SELECT id, name, type, serialization_format, * FROM topics ORDER BY id")
    columns = [column[0] for column in cursor.description]
    topics: dict[int, Topic] = {}
    for number, name, kind, encoding, *more in cursor:
        # Earlier versions of rosbag2 have neither profiles nor hashes.
        values = dict(zip(columns[4:], more, strict=True))
        profiles, digest = values.get("offered_qos_profiles", ""), values.get("type_description_hash", "")
        topics[number] = Topic(name, kind, parse_qos(profiles), schemas.get(kind, Schema()), digest, encoding)
    return topics


def _spans(database: sqlite3.Connection) -> dict[int, tuple[int, int, int]]:
    """Count and first and last log time of each topic."""
    query = "SELECT topic_id, COUNT(*), MIN(timestamp), MAX(timestamp) FROM messages GROUP BY topic_id"
    return {topic: (messages, first, last) for topic, messages, first, last in database.execute(query)}
