"""Recordings in the making: a folder beside the output, whose complete files a run that was killed resumes after."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from sapnet.bags.recording import Message, Topic
from sapnet.bags.writer import BagWriter, Written
from sapnet.errors import BagError
from sapnet.files import append_line, read_json, sync, whole_lines, write_json

# A run that is killed loses the current part.
PART_BYTES = 512 * 2**20
PART_SECONDS = 120.0

BAG = "bag"
_JOB, _JOURNAL, _LOCK, _REPLACED = "job.json", "journal.jsonl", "lock", "replaced"


class Parts:
    """The files of a recording in ``<output>.partial/bag``, and the journal of those that are complete.

    name: of the files, before their number. writer: of that folder.

    Each line of the journal is a complete file and the caller's notes on it, entered once the file is synced. Files
    without an entry are removed when the run is resumed.
    """

    def __init__(self, folder: Path, name: str, writer: BagWriter, topics: tuple[Topic, ...]) -> None:
        self._bag = folder / BAG
        self._journal = folder / _JOURNAL
        self._name = name
        self.writer = writer
        self._numbers = {topic: writer.add(topic) for topic in topics}
        self._bytes = 0
        self._began_s = 0.0

    def recover(self) -> list[dict[str, Any]]:
        """The caller's notes on each complete part, in order. Everything else is removed."""
        try:
            entries = [json.loads(line) for line in whole_lines(self._journal)]
            self.writer.files = [Written(*entry["file"]) for entry in entries]
            said = [entry["said"] for entry in entries]
        except (ValueError, TypeError, KeyError) as err:
            raise BagError(f"{self._journal} is damaged ({err}); start over with --overwrite") from err
        known, there = {file.name for file in self.writer.files}, {file.name for file in self._bag.iterdir()}
        if missing := sorted(known - there):
            raise BagError(f"{self._bag} lacks {', '.join(missing)}, which were complete; start over with --overwrite")
        for name in there - known:
            (self._bag / name).unlink()
        return said

    def begin_part(self) -> None:
        """Begin a part unless one is begun."""
        if not self.writer.is_open:
            self.writer.begin(f"{self._name}_{len(self.writer.files)}")
            self._bytes, self._began_s = 0, time.monotonic()

    def write(self, message: Message) -> None:
        """Append a message to the current part."""
        topic, time_ns, data, publish_ns, sequence = message
        self.writer.write(self._numbers[topic], time_ns, data, publish_ns, sequence)
        self._bytes += len(data)

    @property
    def is_full(self) -> bool:
        """Whether the current part has reached its size or time."""
        return self._bytes >= PART_BYTES or time.monotonic() - self._began_s >= PART_SECONDS

    def end_part(self, said: dict[str, Any]) -> None:
        """Complete the current part, and enter it in the journal with the caller's notes."""
        written = self.writer.end()
        sync(self._bag / written.name)
        sync(self._bag)
        append_line(self._journal, {"file": written, "said": said})


class Job:
    """The folder ``<output>.partial`` of a run, which the next run resumes. See ``workplace``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def is_unfinished(self) -> bool:
        """Whether the folder holds an interrupted run; one that was killed after the last step has no recording."""
        return (self.folder / _JOB).is_file() and (self.folder / BAG).is_dir()

    def begin(self, job: dict[str, Any], resume: bool) -> None:
        """Prepare the folder for a job, or with ``resume`` for the rest of it. Raises BagError if that was another job.

        job: must be equal for a run to be resumed.
        """
        if resume and self.is_unfinished:
            require_same(self.folder, read_json(self.folder / _JOB, "start over with --overwrite"), job)
            return
        for name in (BAG, _REPLACED):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / _JOURNAL).unlink(missing_ok=True)
        write_json(self.folder / _JOB, job)
        (self.folder / BAG).mkdir()

    def end(self, output: Path) -> None:
        """Rename the recording to ``output``, which is replaced."""
        sync(self.folder / BAG)
        if output.exists():
            os.replace(output, self.folder / _REPLACED)
        os.replace(self.folder / BAG, output)
        sync(output.parent)


@contextmanager
def workplace(output: Path) -> Iterator[Job]:
    """The folder ``<output>.partial``, locked, and removed at the end unless it is unfinished. Raises BagError."""
    if output.name in ("", ".."):
        raise BagError(f"{output} is no name for a recording; name a folder to create")
    job = Job(output.with_name(f"{output.name}.partial"))
    try:
        with _lock(job.folder):
            try:
                yield job
            finally:
                if not job.is_unfinished:
                    shutil.rmtree(job.folder, ignore_errors=True)
    except Timeout:
        raise BagError(f"another process is writing {output}; wait for it, or name another output") from None
    except (OSError, sqlite3.Error) as err:
        why = (err.strerror or err) if isinstance(err, OSError) else err
        raise BagError(
            f"{job.folder} cannot be written ({why}); the input is untouched, and complete parts are kept there: "
            "free space or correct its rights, and continue with --resume"
        ) from err


def require_same(where: Path, before: dict[str, Any], job: dict[str, Any]) -> None:
    """Raises BagError if a started or finished job is another one."""
    changed = [key for key in job if job[key] != before.get(key)]
    if changed:
        raise BagError(
            f"{where} is of another job: {', '.join(f'{key} was {before.get(key)}' for key in changed)}; "
            "use the same input and options, or start over with --overwrite"
        )


def _lock(folder: Path) -> AcquireReturnProxy[Any]:
    """Lock a folder until the result's ``with`` statement ends. Raises Timeout if another process has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        acquired = FileLock(folder / _LOCK, timeout=0).acquire()
        if (folder / _LOCK).is_file():
            return acquired
        acquired.lock.release()  # the one before us removed the folder meanwhile
