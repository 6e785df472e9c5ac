"""Writes a recording in parts, each of which is safe once it is complete, so that a run can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sapnet.bags.metadata import merged, read_metadata, write_metadata
from sapnet.bags.recording import Message, Records, Topic
from sapnet.bags.writer import BagWriter
from sapnet.errors import BagError
from sapnet.files import append_line, read_json, sync, whole_lines, write_json

# A run that is killed loses the current part.
PART_BYTES = 512 * 2**20
PART_SECONDS = 120.0

_JOB, _JOURNAL, _LOCK, _BAG, _PART, _REPLACED = "job.json", "journal.jsonl", "lock", "bag", "part", "replaced"


class Parts:
    """Parts of a recording in the folder ``<output>.partial``, and its journal.

    topics: of each part. make: makes the writer of a part, for its folder.

    Each line of the journal is a complete part: its metadata, and the caller's notes on it. A part is written in a
    folder of its own, synced, moved to the others and only then entered. Files without an entry are removed when the
    run is resumed.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        topics: Sequence[Topic],
        make: Callable[[Path], BagWriter],
    ) -> None:
        self._folder = folder
        self._name = name
        self._topics = topics
        self._make = make
        self._metadata: list[dict[str, Any]] = []
        self._writer: BagWriter | None = None
        self._numbers: dict[Topic, int] = {}
        self._bytes = 0
        self._began_s = 0.0

    def recover(self) -> list[dict[str, Any]]:
        """The caller's notes on each complete part, in order. Everything else is removed."""
        entries = self._entries()
        self._metadata = [metadata for metadata, _ in entries if metadata]
        known = {name for metadata in self._metadata for name in metadata["relative_file_paths"]}
        (self._folder / _BAG).mkdir(exist_ok=True)
        missing = sorted(name for name in known if not (self._folder / _BAG / name).is_file())
        if missing:
            raise BagError(
                f"{self._folder} lacks {', '.join(missing)}, which were complete; start over with --overwrite"
            )
        for file in (self._folder / _BAG).iterdir():
            if file.name not in known:
                file.unlink()
        shutil.rmtree(self._folder / _PART, ignore_errors=True)
        return [said for _, said in entries]

    def _entries(self) -> list[tuple[dict[str, Any] | None, dict[str, Any]]]:
        """Metadata of each complete part, and the caller's notes on it."""
        journal = self._folder / _JOURNAL
        try:
            entries = [json.loads(line) for line in whole_lines(journal)]
            return [(entry["metadata"], entry["said"]) for entry in entries]
        except (ValueError, TypeError, KeyError) as err:
            raise BagError(f"{journal} is damaged ({err}); start over with --overwrite") from err

    def write(self, message: Message) -> None:
        """Append a message to the current part."""
        writer = self._writer or self._begin()
        topic, time_ns, data, publish_ns, sequence = message
        writer.write(self._numbers[topic], time_ns, data, publish_ns, sequence)
        self._bytes += len(data)

    @property
    def has_parts(self) -> bool:
        """Whether a part is complete."""
        return bool(self._metadata)

    def add_records(self, records: Records) -> None:
        """Add attachments and metadata records of mcap to the current part."""
        for record in records:
            (self._writer or self._begin()).add_record(record)

    @property
    def is_full(self) -> bool:
        """Whether the current part has reached its size or time."""
        long = time.monotonic() - self._began_s >= PART_SECONDS
        return self._writer is not None and (self._bytes >= PART_BYTES or long)

    def end_part(self, said: dict[str, Any]) -> None:
        """Complete the current part, and enter it in the journal with the caller's notes."""
        writer, self._writer = self._writer, None
        if writer is None and not self._metadata:
            # A recording has at least one file.
            writer, self._writer = self._begin(), None
        metadata = self._close(writer) if writer is not None else None
        append_line(self._folder / _JOURNAL, {"metadata": metadata, "said": said})
        self._metadata += [metadata] if metadata else []

    def abort_part(self) -> None:
        """Discard the current part."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def end(self, output: Path, extra: dict[str, str]) -> None:
        """Rename the recording to ``output``, which is replaced. extra: contents of further files by name."""
        bag = self._folder / _BAG
        write_metadata(bag, merged(self._metadata))
        for name, text in extra.items():
            (bag / name).write_text(text)
            sync(bag / name)
        sync(bag)
        if output.exists():
            os.replace(output, self._folder / _REPLACED)
        os.replace(bag, output)
        sync(output.parent)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close(self, writer: BagWriter) -> dict[str, Any]:
        """Move a part to the complete ones, and return its metadata."""
        try:
            writer.close()
        except BaseException:
            writer.abort()
            raise
        metadata = read_metadata(writer.path)
        for name in metadata["relative_file_paths"]:
            sync(writer.path / name)
            os.replace(writer.path / name, self._folder / _BAG / name)
        sync(self._folder / _BAG)
        shutil.rmtree(writer.path.parent)
        return metadata

    def _begin(self) -> BagWriter:
        path = self._folder / _PART / f"{self._name}_{len(self._metadata)}"
        self._writer = self._make(path)
        self._writer.open()
        self._numbers = {topic: self._writer.add(topic) for topic in self._topics}
        self._bytes, self._began_s = 0, time.monotonic()
        return self._writer


@contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """The folder ``<output>.partial``, locked, and removed at the end unless it holds a job. Raises BagError."""
    if output.name in ("", ".."):
        raise BagError(f"{output} is no name for a recording; name a folder to create")
    folder = output.with_name(f"{output.name}.partial")
    with _writing(folder), _locked(folder, output):
        try:
            yield folder
        finally:
            if not (folder / _JOB).is_file():
                shutil.rmtree(folder, ignore_errors=True)


def is_unfinished(folder: Path) -> bool:
    """Whether the folder holds an interrupted run."""
    return (folder / _JOB).is_file()


def forget_job(folder: Path) -> None:
    """Discard the remains of a job whose output is complete."""
    (folder / _JOB).unlink(missing_ok=True)


def begin_job(folder: Path, job: dict[str, Any], resume: bool) -> None:
    """Prepare the folder for a job, or with ``resume`` for the rest of it. Raises BagError if that was another job.

    job: must be equal for a run to be resumed.
    """
    if resume and is_unfinished(folder):
        require_same(folder, read_json(folder / _JOB, "start over with --overwrite"), job)
        return
    for name in (_BAG, _PART, _REPLACED):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / _JOURNAL).unlink(missing_ok=True)
    write_json(folder / _JOB, job)


def require_same(where: Path, before: dict[str, Any], job: dict[str, Any]) -> None:
    """Raises BagError if a started or finished job is another one."""
    changed = [key for key in job if job[key] != before.get(key)]
    if changed:
        raise BagError(
            f"{where} is of another job: {', '.join(f'{key} was {before.get(key)}' for key in changed)}; "
            "use the same input and options, or start over with --overwrite"
        )


@contextmanager
def _locked(folder: Path, output: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        while not lock.is_locked:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            if not (folder / _LOCK).is_file():  # the one before us removed the folder meanwhile
                lock.release()
    except Timeout:
        raise BagError(f"another process is writing {output}; wait for it, or name another output") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as err:
        why = (err.strerror or err) if isinstance(err, OSError) else err
        raise BagError(
            f"{folder} cannot be written ({why}); the input is untouched, and complete parts are kept there: "
            "free space or correct its rights, and continue with --resume"
        ) from err
