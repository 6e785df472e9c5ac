"""Recordings in the making: a folder beside the output, whose complete files a run that was killed resumes after."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sapnet.bags.report import BagReport
from sapnet.bags.writer import Written
from sapnet.errors import BagError
from sapnet.files import append_line, read_json, sync, whole_lines, write_json

_BAG, _JOB, _JOURNAL, _LOCK, _REPLACED = "bag", "job.json", "journal.jsonl", "lock", "replaced"


class Job:
    """The folder ``<output>.partial`` of a run, which the next run resumes. See ``workplace``.

    It holds the recording, whose files are the parts of the run, and a journal of those that are complete: a line for
    each, entered once the file is synced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = folder / _JOURNAL
        self.bag = folder / _BAG

    @property
    def is_unfinished(self) -> bool:
        """Whether the folder holds an interrupted run; one that was killed after the last step has no recording."""
        return (self._folder / _JOB).is_file() and self.bag.is_dir()

    def begin(self, job: dict[str, Any], resume: bool) -> None:
        """Prepare the folder for a job, or with ``resume`` for the rest of it. Raises BagError if that was another job.

        job: must be equal for a run to be resumed.
        """
        if resume and self.is_unfinished:
            require_same(self._folder, read_json(self._folder / _JOB, "start over with --overwrite"), job)
            return
        for folder in (self.bag, self._folder / _REPLACED):
            shutil.rmtree(folder, ignore_errors=True)
        self._journal.unlink(missing_ok=True)
        write_json(self._folder / _JOB, job)
        self.bag.mkdir()

    def recover(self) -> list[tuple[Written, int, BagReport]]:
        """The complete parts, in order, as they were entered. All other files are removed. Raises BagError."""
        try:
            entries = [json.loads(line) for line in whole_lines(self._journal)]
            parts = [(Written(**file), done, BagReport.from_json(report)) for file, done, report in entries]
        except (ValueError, TypeError, KeyError) as err:
            raise BagError(f"{self._journal} is damaged ({err}); start over with --overwrite") from err
        known, there = {file.name for file, *_ in parts}, {file.name for file in self.bag.iterdir()}
        if missing := sorted(known - there):
            raise BagError(f"{self.bag} lacks {', '.join(missing)}, which were complete; start over with --overwrite")
        for name in there - known:
            (self.bag / name).unlink()
        return parts

    def enter(self, file: Written, done: int, report: BagReport) -> None:
        """Sync a complete part, and enter it in the journal. done: messages of the input up to its end."""
        sync(self.bag / file.name)
        sync(self.bag)
        append_line(self._journal, [asdict(file), done, asdict(report)])

    def end(self, output: Path) -> None:
        """Rename the recording to ``output``, which is replaced."""
        sync(self.bag)
        if output.exists():
            os.replace(output, self._folder / _REPLACED)
        os.replace(self.bag, output)
        sync(output.parent)


@contextmanager
def workplace(output: Path) -> Iterator[Job]:
    """The folder ``<output>.partial``, locked, and removed at the end unless it is unfinished. Raises BagError."""
    if output.name in ("", ".."):
        raise BagError(f"{output} is no name for a recording; name a folder to create")
    folder = output.with_name(f"{output.name}.partial")
    job = Job(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK, timeout=0):
            try:
                yield job
            finally:
                if not job.is_unfinished:
                    shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise BagError(f"another process is writing {output}; wait for it, or name another output") from None
    except (OSError, sqlite3.Error) as err:
        why = (err.strerror or err) if isinstance(err, OSError) else err
        raise BagError(
            f"{folder} cannot be written ({why}); the input is untouched, and complete parts are kept there: "
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
