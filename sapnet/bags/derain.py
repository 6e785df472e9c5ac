"""Derains the cameras of a recording into a copy of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sapnet.bags.cameras import BagOptions, Item, Outputs
from sapnet.bags.journal import Job, require_same, workplace
from sapnet.bags.open import open_recording
from sapnet.bags.pipeline import derained_items, expected_messages
from sapnet.bags.recording import CDR, METADATA, InputError, Recording, reading
from sapnet.bags.report import BagReport, CameraReport, read_report
from sapnet.bags.writer import BagWriter
from sapnet.derainer import Derainer
from sapnet.errors import BagError
from sapnet.files import sync

REPORT = "sapnet_report.json"
# Unreadable images that are reported individually.
MAX_NAMED = 10
# A run that is broken off loses the current part.
PART_BYTES = 512 * 2**20
PART_SECONDS = 120.0

# Called with the input's messages so far, their expected total, and the frames derained in this run.
Progress = Callable[[int, int, int], None]


def derain_bag(
    derainer: Derainer,
    source: Path,
    output: Path,
    options: BagOptions | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda messages, total, frames: None,
) -> BagReport:
    """Write a copy of the recording ``source`` with its cameras derained; see BagOptions.

    output: a folder that appears complete at the end, with the report as ``sapnet_report.json``. Until then the work is
    in ``<output>.partial``. resume: continue it, and accept an output that is complete as it is. overwrite: replace an
    output that exists. Raises BagError, BackendError.
    """
    options = options or BagOptions()
    with workplace(output) as job:
        if resume and (output / REPORT).is_file() and not (overwrite and job.is_unfinished):
            report = read_report(output / REPORT)
            if source.exists():
                require_same(output, report.job, _job(derainer, source, options))
            return report
        require_free(source, output, overwrite)
        if job.is_unfinished and not (resume or overwrite):
            raise BagError(
                f"{output}.partial holds an interrupted run; continue it with --resume, or replace it with --overwrite"
            )
        with open_recording(source) as bag:
            run = _Run(derainer, bag, output, options)
            job.begin(run.report.job, resume)
            run.perform(job, progress)
            return run.report


@dataclass
class _Run:
    """One run of a job, which may resume an earlier one."""

    _derainer: Derainer
    _bag: Recording
    _output: Path
    _options: BagOptions

    def __post_init__(self) -> None:
        bag, options = self._bag, self._options
        length_s = (bag.end_ns - bag.start_ns) / 1e9
        if options.start_s and length_s <= options.start_s:
            raise BagError(
                f"{bag.path} is {length_s:.3f} s long; there is nothing to derain from {options.start_s:g} s on"
            )
        self._outputs = Outputs(bag, options)
        self._storage = options.storage or ("mcap" if bag.storage == "ros1" else bag.storage)
        unfit = [topic for topic in self._outputs.topics if topic.metadata is not None and topic.encoding != CDR]
        if unfit and self._storage == "sqlite3":
            names = ", ".join(f"{topic.name} ({topic.encoding})" for topic in unfit)
            raise BagError(f"sqlite3 cannot hold {names} as recorded; leave out --storage, or write mcap")
        self.report = self._empty_report()
        self.report.job = _job(self._derainer, bag.path, options)
        self.report.network = self.report.job["network"]

    def perform(self, job: Job, progress: Progress) -> None:
        """Do the rest of the job."""
        bag = self._bag
        compression = "none" if bag.compression == "chunk" and self._storage != "mcap" else bag.compression
        writer = BagWriter(job.bag, self._storage, compression, bag.custom, bag.files[0].profile, self._output.name)
        parts = job.recover()
        for file, _, part in parts:
            writer.files.append(file)
            self.report.add(part)
        try:
            with writer:
                self._write(job, writer, parts[-1][1] if parts else 0, progress)
        except InputError as err:
            raise InputError(f"{err}; the work so far is kept: continue with --resume") from err
        self.report.messages = sum(sum(file.counts) for file in writer.files)
        self.report.notes = [*bag.notes, *self._outputs.notes, *self.report.notes]
        self.report.is_partial = bool(bag.missing)
        report = job.bag / REPORT
        report.write_text(json.dumps(asdict(self.report)))
        sync(report)
        job.end(self._output)

    def _write(self, job: Job, writer: BagWriter, done: int, progress: Progress) -> None:
        """Write the rest in parts. done: messages of the recording that earlier runs have dealt with."""
        numbers = {topic: writer.add(topic) for topic in self._outputs.topics}
        part, began_s, frames = self._empty_report(), time.monotonic(), 0

        def end_part() -> None:
            nonlocal part, began_s
            part.seconds = time.monotonic() - began_s
            if (file := writer.end()) is not None:  # messages of the input may come to nothing
                job.enter(file, done, part)
            self.report.add(part)
            part, began_s = self._empty_report(), time.monotonic()

        self._copy_records(writer)
        # A part that is broken off within a message, or while it ends, may be incomplete: it is written again.
        is_whole = True
        expected = expected_messages(self._bag, self._options)
        try:
            items = derained_items(self._derainer, self._bag, self._outputs.cameras, self._options, done)
            with closing(items):
                for item in items:
                    is_whole = False
                    is_full = writer.written.size >= PART_BYTES or time.monotonic() - began_s >= PART_SECONDS
                    # Readers sort within a file: where the input's next file goes back in time, so does ours.
                    span_ns = writer.written.span_ns
                    if span_ns and (is_full or item.recorded.time_ns < span_ns[1]):
                        end_part()
                    for message in self._outputs.messages(item):
                        writer.write(numbers[message.topic], *message[1:])
                    self._count(item, part)
                    done, is_whole = item.number + 1, True
                    frames += item.derained is not None
                    progress(done, expected, frames)
        finally:
            if is_whole:
                end_part()

    def _copy_records(self, writer: BagWriter) -> None:
        """Copy attachments and metadata records into the first file.

        A run that resumes has it already, and reads them only for what is found to be lost.
        """
        for record in self._bag.records():
            if self._options.only_derained:
                continue
            if self._storage != "mcap":
                self._bag.findings.note(f"sqlite3 has no place for {record.name!r}, an attachment or metadata record")
            elif not writer.files:
                writer.add_record(record)

    def _count(self, item: Item, part: BagReport) -> None:
        """Count the result for a message."""
        if item.camera is None:
            return
        counts = part.cameras[self._outputs.cameras.index(item.camera)]
        counts.frames += 1
        if item.unreadable:
            counts.unreadable += 1
            if len(self.report.notes) + len(part.notes) < MAX_NAMED:
                seconds = (item.recorded.time_ns - self._bag.start_ns) / 1e9
                part.notes.append(f"image of {counts.topic} at {seconds:.3f} s not derained: {item.unreadable}")
        elif item.derained is None:
            counts.skipped += 1
        else:
            counts.derained_frames += 1
            counts.times_ns.append(item.recorded.time_ns)
            counts.rain_scores.append(round(item.derained.rain_score, 6))
            counts.latencies_ms.append(round(item.latency_ms, 3))

    def _empty_report(self) -> BagReport:
        made = self._outputs.made.items()
        cameras = [CameraReport(topic.name, derained.name, mask.name) for topic, (derained, _, mask) in made]
        return BagReport(str(self._bag.path), str(self._output), cameras)


def require_free(source: Path, output: Path, overwrite: bool) -> None:
    """Raises BagError if the output is there and must not be replaced, or contains the input."""
    if output.exists() and not overwrite:
        raise BagError(f"{output} exists already; name another output, or replace it with --overwrite")
    if output.resolve() in (source.resolve(), *source.resolve().parents):
        raise BagError(f"{output} is the input, or holds it; name another output")
    if output.exists() and not ((output / METADATA).is_file() or (output.is_dir() and not any(output.iterdir()))):
        raise BagError(f"{output} is no recording, so it is not replaced; name another output")


def _job(derainer: Derainer, source: Path, options: BagOptions) -> dict[str, Any]:
    """What identifies a job, as JSON values."""
    weights = Path(derainer.weights)
    job: dict[str, Any] = {
        "input": _identity(source),
        "options": asdict(options),
        "network": derainer.facts,
        # Of a file, whose content may change under its name.
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "",
    }
    return {key: json.loads(json.dumps(value)) for key, value in job.items()}


def _identity(source: Path) -> list[list[Any]]:
    """Names, sizes and times of a recording's files, which tell whether it has changed."""
    with reading(source):
        files = sorted(source.iterdir()) if source.is_dir() else [source]
        stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
