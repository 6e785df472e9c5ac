"""Derains the cameras of a recording into a copy of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sapnet.bags.cameras import Camera, Item, Outputs, contents, find_cameras
from sapnet.bags.journal import Job, require_same, workplace
from sapnet.bags.mcap import ROSBAG2_RECORD
from sapnet.bags.metadata import METADATA
from sapnet.bags.open import open_recording
from sapnet.bags.options import BagOptions
from sapnet.bags.pipeline import Steps
from sapnet.bags.recording import CDR, FIRST_NS, InputError, Recording, Records, Topic, reading
from sapnet.bags.report import BagReport, CameraReport, read_report
from sapnet.bags.writer import BagWriter
from sapnet.derainer import Derainer
from sapnet.errors import BackendError, BagError
from sapnet.files import sync

REPORT = "sapnet_report.json"
# Unreadable images that are reported individually.
MAX_NAMED = 10
# A run that is killed loses the current part.
PART_BYTES = 512 * 2**20
PART_SECONDS = 120.0


@dataclass(frozen=True)
class Progressed:
    """Progress: input messages so far and the expected total; frames derained in this run."""

    messages: int
    total: int
    frames: int


Progress = Callable[[Progressed], None]


def derain_bag(
    derainer: Derainer,
    source: Path,
    output: Path,
    options: BagOptions | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda progressed: None,
) -> BagReport:
    """Write a copy of the recording ``source`` with its cameras derained; see BagOptions.

    output: a folder that appears complete at the end, with the report as ``sapnet_report.json``. Until then the work is
    in ``<output>.partial``. resume: continue it, and accept an output that is complete as it is. overwrite: replace an
    output that exists. Raises BagError, BackendError.
    """
    options = options or BagOptions()
    with workplace(output) as job:
        if resume and (output / REPORT).is_file() and not (overwrite and job.is_unfinished):
            return _whole(derainer, source, output, options)
        _require_free(output, resume, overwrite, job.is_unfinished)
        _require_replaceable(source, output)
        with open_recording(source) as bag:
            _require_within(bag, options.start_s)
            cameras = find_cameras(bag, options.topics)
            if not cameras:
                raise BagError(f"{source} has no color camera; name an image topic with --topic. {contents(bag)}")
            run = _Run(derainer, bag, cameras, output, options, progress)
            job.begin(run.report.job, resume)
            run.perform(job)
            return run.report


class _Run:
    """One run of a job, which may resume an earlier one."""

    def __init__(
        self,
        derainer: Derainer,
        bag: Recording,
        cameras: list[Camera],
        output: Path,
        options: BagOptions,
        progress: Progress,
    ) -> None:
        self._bag = bag
        self._output = output
        self._outputs = Outputs(bag, cameras, options)
        self._steps = Steps(derainer, bag, cameras, options)
        self._storage = options.storage or ("mcap" if bag.storage == "ros1" else bag.storage)
        self._only_derained = options.only_derained
        self._progress = progress
        _require_fit(self._outputs.topics, self._storage)
        self._names = [self._outputs.names(camera) for camera in cameras]
        self.report = self._empty_report()
        self.report.job = _job(derainer, bag.path, options)
        self.report.network = self.report.job["network"]

    def perform(self, job: Job) -> None:
        """Do the rest of the job."""
        bag = self._bag
        compression = "none" if bag.compression == "chunk" and self._storage != "mcap" else bag.compression
        writer = BagWriter(job.bag, self._storage, compression, bag.custom, bag.profile)
        done = 0
        for written, said in job.recover():
            writer.files.append(written)
            done = said["done"]
            self.report.add(BagReport.from_json(said["report"]))
        try:
            self._write(job, writer, done)
        finally:
            writer.abort()
        self.report.notes = [*bag.notes, *self._outputs.notes, *self.report.notes]
        self.report.is_partial = bool(bag.missing)
        writer.finish()
        report = job.bag / REPORT
        report.write_text(json.dumps(asdict(self.report)))
        sync(report)
        job.end(self._output)

    def _records(self) -> Records:
        """Attachments and metadata records to copy; the one of rosbag2 is written anew."""
        for record in self._bag.records():
            if self._only_derained or record.name == ROSBAG2_RECORD:
                continue
            if self._storage != "mcap":
                self._bag.findings.note(f"sqlite3 has no place for {record.name!r}, an attachment or metadata record")
            yield record

    def _write(self, job: Job, writer: BagWriter, done: int) -> None:
        """Write the rest in parts. done: messages of the recording that earlier runs have dealt with."""
        numbers = {topic: writer.add(topic) for topic in self._outputs.topics}
        part, began_s, size = self._empty_report(), time.monotonic(), 0
        frames, is_whole, newest_ns = 0, False, FIRST_NS

        def begin_part() -> None:
            if not writer.is_open:
                writer.begin(f"{self._output.name}_{len(writer.files)}")

        def end_part() -> None:
            # An interrupted part is written again: it may be incomplete.
            nonlocal part, began_s, size, is_whole
            is_whole = False
            part.seconds = time.monotonic() - began_s
            job.enter(writer.end(), {"done": done, "report": asdict(part)})
            self.report.add(part)
            part, began_s, size = self._empty_report(), time.monotonic(), 0

        try:
            # Before the first item, as that starts the thread which unpacks the input's files. A run that resumes reads
            # them again, for what is found to be lost.
            is_first = not writer.files
            if is_first:
                begin_part()
            for record in self._records():
                if is_first:
                    writer.add_record(record)
            is_whole = is_first
            with closing(self._steps.items(done)) as items:
                for item in items:
                    messages = list(self._outputs.messages(item))
                    # Readers sort within a file: where the input's next file goes back in time, so does ours.
                    if item.recorded.time_ns < newest_ns and part.messages:
                        end_part()
                    is_whole = False
                    begin_part()
                    for message in messages:
                        writer.write(numbers[message.topic], *message[1:])
                    size += sum(len(message.data) for message in messages)
                    self._count(item, part)
                    part.messages += len(messages)
                    done, newest_ns, is_whole = item.number + 1, item.recorded.time_ns, True
                    frames += item.derained is not None
                    if size >= PART_BYTES or time.monotonic() - began_s >= PART_SECONDS:
                        end_part()
                    self._progress(Progressed(done, self._steps.expected, frames))
            if is_whole:
                end_part()
        except (BackendError, InputError, KeyboardInterrupt, SystemExit) as err:
            if is_whole:
                end_part()
            if isinstance(err, InputError):
                raise InputError(f"{err}; the work so far is kept: continue with --resume") from err
            raise

    def _count(self, item: Item, part: BagReport) -> None:
        """Count the result for a message."""
        if item.camera is None:
            return
        counts = next(report for report in part.cameras if report.topic == item.camera.topic.name)
        counts.frames += 1
        counts.skipped += item.skipped
        if item.unreadable:
            counts.unreadable += 1
            if sum(camera.unreadable for camera in (*part.cameras, *self.report.cameras)) <= MAX_NAMED:
                seconds = (item.recorded.time_ns - self._bag.start_ns) / 1e9
                part.notes.append(f"image of {counts.topic} at {seconds:.3f} s not derained: {item.unreadable}")
        if item.derained is not None:
            counts.derained_frames += 1
            counts.times_ns.append(item.recorded.time_ns)
            counts.rain_scores.append(round(item.derained.rain_score, 6))
            counts.latencies_ms.append(round(item.latency_ms, 3))
            part.note_backend(item.recorded.time_ns, item.backend)

    def _empty_report(self) -> BagReport:
        return BagReport(str(self._bag.path), str(self._output), [CameraReport(*names) for names in self._names])


def _require_fit(topics: Sequence[Topic], storage: str) -> None:
    """Raises BagError if a storage cannot hold the schemas of some topics."""
    unfit = [
        f"{topic.name} ({topic.encoding})" for topic in topics if topic.metadata is not None and topic.encoding != CDR
    ]
    if storage == "sqlite3" and unfit:
        raise BagError(f"sqlite3 cannot hold {', '.join(unfit)} as recorded; leave out --storage, or write mcap")


def _require_within(bag: Recording, start_s: float) -> None:
    """Raises BagError if a recording ends before the start."""
    length_ns = bag.end_ns - bag.start_ns
    if start_s and length_ns <= round(start_s * 1e9):
        raise BagError(f"{bag.path} is {length_ns / 1e9:.3f} s long; there is nothing to derain from {start_s:g} s on")


def _require_replaceable(source: Path, output: Path) -> None:
    """Raises BagError if the output is not a recording, or contains the input."""
    if output.resolve() in (source.resolve(), *source.resolve().parents):
        raise BagError(f"{output} is the input, or holds it; name another output")
    if output.exists() and not ((output / METADATA).is_file() or (output.is_dir() and not any(output.iterdir()))):
        raise BagError(f"{output} is no recording, so it is not replaced; name another output")


def _require_free(output: Path, resume: bool, overwrite: bool, unfinished: bool) -> None:
    """Raises BagError if something exists that must not be replaced."""
    if output.exists() and not overwrite:
        raise BagError(f"{output} exists already; name another output, or replace it with --overwrite")
    if unfinished and not resume and not overwrite:
        raise BagError(
            f"{output}.partial holds an interrupted run; continue it with --resume, or replace it with --overwrite"
        )


def _whole(derainer: Derainer, source: Path, output: Path, options: BagOptions) -> BagReport:
    """The report of a complete output. Raises BagError if it is of another job; the input need not exist any more."""
    report = read_report(output / REPORT)
    if source.exists():
        require_same(output, report.job, _job(derainer, source, options))
    return report


def _job(derainer: Derainer, source: Path, options: BagOptions) -> dict[str, Any]:
    """What identifies a job, as JSON values."""
    weights = Path(derainer.weights)
    job = {
        "input": _identity(source),
        "options": asdict(options),
        "network": {
            "weights": derainer.weights,
            "backend": derainer.backend_name,
            "precision": derainer.precision,
            "stages": derainer.stages,
            "device": derainer.device,
        },
        # Of a file, whose content may change under its name.
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "",
    }
    values: dict[str, Any] = json.loads(json.dumps(job))
    return values


def _identity(source: Path) -> list[list[Any]]:
    """Names, sizes and times of a recording's files, which tell whether it has changed."""
    with reading(source):
        files = sorted(source.iterdir()) if source.is_dir() else [source]
        stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
