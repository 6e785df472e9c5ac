"""Reads one sqlite3 file of a rosbag2 recording, of any version."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sapnet.bags.recording import Findings, Message, Schema, StoredFile, Topic
from sapnet.bags.types import parse_qos
from sapnet.errors import BagError, first_line

# What a killed writer leaves beside the database: changes to apply, or to roll back.
_LOGS = ("-wal", "-journal")
_STORAGE_ERRORS = ("disk I/O error", "database or disk is full", "unable to open database file")


class Sqlite3File(StoredFile):
    """A database of a recording."""

    def __init__(self, find: Callable[[], Path], findings: Findings) -> None:
        super().__init__(find, findings)
        try:
            with self._database() as database:
                self._topics, spans = _contents(database)
        except sqlite3.DatabaseError as err:
            raise BagError(f"it is damaged or cut off ({first_line(err)}); {_advice(self._name)}") from err
        self.topics = tuple(self._topics.values())
        self.span_ns = (min(first for first, _ in spans), max(last for _, last in spans) + 1) if spans else (0, 0)

    def messages(self, topics: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Read messages of some of its topics, ordered by log time, then by arrival."""
        wanted = {number: topic for number, topic in self._topics.items() if topic in topics and topic.count}
        if not wanted:  # a query without result scans the whole database
            return
        last_ns = min(stop_ns - 1, 2**63 - 1)
        query = """SELECT topic_id, timestamp, data FROM messages
            WHERE timestamp BETWEEN ? AND ? AND topic_id IN (SELECT value FROM json_each(?)) ORDER BY timestamp, id"""
        try:
            with self._database() as database:
                for number, time_ns, data in database.execute(query, (start_ns, last_ns, json.dumps(list(wanted)))):
                    yield Message(wanted[number], time_ns, data)
        except sqlite3.DatabaseError as err:
            said = f"{self._name} is damaged ({first_line(err)}): read up to there; {_advice(self._name)}"
            self._findings.lose(said)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Read without a trace: no lock, no file beside it. Raises OSError if the storage fails."""
        uri = f"{self._find().absolute().as_uri()}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as database:
                yield database
        except sqlite3.OperationalError as err:
            if str(err).startswith(_STORAGE_ERRORS):
                raise OSError(errno.EIO, str(err)) from err
            raise


def copy_with_logs(path: Path, folder: Path) -> Path | None:
    """A copy of a database that was not closed, in a new folder, with the logs beside it applied; None without logs.

    Raises BagError, OSError.
    """
    logs = [log for end in _LOGS if (log := path.with_name(path.name + end)).is_file() and log.stat().st_size > 0]
    if not logs:
        return None
    folder.mkdir()
    for original in (path, *logs):
        shutil.copyfile(original, folder / original.name)
    copy = folder / path.name
    try:
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("PRAGMA journal_mode=DELETE").fetchall()
            return copy
    except sqlite3.DatabaseError as err:
        raise BagError(f"the database and its log cannot be merged ({err}); {_advice(copy.name)}") from err


def _advice(name: str) -> str:
    return f"`sqlite3 {name} .recover | sqlite3 recovered.db3` saves what is left of it"


def _contents(database: sqlite3.Connection) -> tuple[dict[int, Topic], list[tuple[int, int]]]:
    """Topics by their numbers, and the first log time and the last of each that has messages."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"messages", "topics"} <= tables:
        raise BagError("it has no tables of messages and topics")
    schemas: dict[str, Schema] = {}
    if "message_definitions" in tables:
        query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        schemas = {name: Schema(encoding, text.encode()) for name, encoding, text in database.execute(query) if text}
    query = "SELECT topic_id, MIN(timestamp), MAX(timestamp), COUNT(*) FROM messages GROUP BY topic_id"
    spans = {number: (first, last, count) for number, first, last, count in database.execute(query)}
    cursor = database.execute("SELECT id, name, type, serialization_format, * FROM topics ORDER BY id")
    columns = [column[0] for column in cursor.description]
    topics: dict[int, Topic] = {}
    for number, name, kind, encoding, *more in cursor:
        # Earlier versions of rosbag2 have neither profiles nor hashes.
        values = dict(zip(columns[4:], more, strict=True))
        profiles, digest = values.get("offered_qos_profiles", ""), values.get("type_description_hash", "")
        count = spans[number][2] if number in spans else 0
        topics[number] = Topic(name, kind, parse_qos(profiles), schemas.get(kind, Schema()), digest, encoding, count)
    # Messages may be left of topics that are not there any more.
    return topics, [(first, last) for number, (first, last, _) in spans.items() if number in topics]
