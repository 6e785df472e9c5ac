"""What runs in a worker's process: one network, and one task after another."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sapnet
from sapnet.bags import open_recording
from sapnet.bags.derain import REPORT, Progressed, derain_bag
from sapnet.bags.join import join_bags
from sapnet.bags.report_data import BagReport, read_report
from sapnet.errors import BackendError, SapnetError, describe
from sapnet.files import sync, write_json
from sapnet.fleet.plan import CHUNKS, is_complete
from sapnet.fleet.schedule import DERAIN, PROBE, Outcome, Task

if TYPE_CHECKING:
    from sapnet.derainer import Derainer

# Network storage may show a new file late.
SEEN_WITHIN_S = 10.0


class _Stopped(KeyboardInterrupt):
    """The worker was told to stop; deraining ends as at Ctrl-C, and what is done is kept."""


@dataclass(frozen=True)
class Hello:
    """What a worker says once it can work. error: why it cannot, or empty."""

    node_id: str
    node: str
    error: str = ""


class Worker:
    """Holds one network. ``work`` may be asked for its ``progress``, and told to ``stop``, from other threads.

    network: arguments of Derainer. threads: that the network may use on a CPU.
    """

    def __init__(self, network: Mapping[str, Any], threads: int) -> None:
        self._network = dict(network)
        self.threads = threads
        self._derainer: Derainer | None = None
        self._stopping = threading.Event()
        self._progress = 0.0

    def start(self, marker: Path, version: str, node_id: str = "") -> Hello:
        """Load the network. marker: a file of the output folder. version: of sapnet, where the tasks come from."""
        host = socket.gethostname()
        node = f"{host}/{node_id[:8]}" if node_id else host
        try:
            if version != sapnet.__version__:
                raise SapnetError(f"{host} has sapnet {sapnet.__version__}, expected {version}: install the same there")
            _require_seen(marker, host)
            self._open()
        except Exception as err:
            return Hello(node_id, node, describe(err))
        return Hello(node_id, node)

    def work(self, task: Task) -> Outcome:
        """Do a task; what goes wrong is in the outcome."""
        self._progress = 0.0
        began_s = time.monotonic()
        try:
            if task.kind == PROBE:
                return Outcome(cuts=_cuts(task))
            report = self._derain(task) if task.kind == DERAIN else _join(task)
        except _Stopped:
            return Outcome(stopped=True)
        except Exception as err:
            if isinstance(err, BackendError):
                self.close()  # a device that has failed once may go on failing until it is opened anew
            return Outcome(describe(err), seconds=time.monotonic() - began_s)
        return Outcome(
            frames=report.frames,
            unreadable=sum(camera.unreadable for camera in report.cameras),
            messages=report.messages,
            seconds=time.monotonic() - began_s,
            notes=tuple(report.notes),
        )

    def progress(self) -> float:
        """How much of the task under way is done, 0 to 1."""
        return self._progress

    def stop(self) -> None:
        """End the task under way as soon as a frame is done."""
        self._stopping.set()

    def close(self) -> None:
        """Free the network; the next task opens it again."""
        derainer, self._derainer = self._derainer, None
        if derainer is not None:
            derainer.close()

    def _open(self) -> Derainer:
        if self._derainer is None:
            from sapnet.derainer import Derainer

            self._derainer = Derainer(**_limited(self._network, self.threads))
        return self._derainer

    def _derain(self, task: Task) -> BagReport:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        # Never in place of something that this package did not write.
        anew = task.anew and not task.output.exists()
        return derain_bag(
            self._open(),
            task.bag.source,
            task.output,
            task.options,
            resume=not anew,
            overwrite=anew,
            progress=self._note,
        )

    def _note(self, progressed: Progressed) -> None:
        self._progress = min(1.0, progressed.messages / max(1, progressed.total))
        if self._stopping.is_set():
            raise _Stopped


def _limited(network: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Arguments of Derainer that keep it to its share of the processor."""
    if network.get("backend") == "fake":
        return dict(network)
    return {**network, "threads": threads}


def _require_seen(marker: Path, host: str) -> None:
    until_s = time.monotonic() + SEEN_WITHIN_S
    while not marker.is_file():
        if time.monotonic() > until_s:
            raise SapnetError(
                f"{host} does not see {marker}: inputs and outputs must be on storage that all nodes share"
            )
        time.sleep(0.2)


def _cuts(task: Task) -> tuple[float, ...]:
    """Where each chunk begins, in seconds. A recording that has to be unpacked or rebuilt to be read is one chunk."""
    with open_recording(task.bag.source) as bag:
        whole = bag.notes or bag.compression == "file"
        length_ns = 0 if whole else bag.end_ns - bag.start_ns
    count = max(1, -(-length_ns // round(task.chunk_s * 1e9)))
    return tuple(round(number * task.chunk_s, 3) for number in range(count))


def _join(task: Task) -> BagReport:
    """Make a recording of its chunks, and a report of theirs; or take the one that was made before a worker died."""
    folder = task.output.with_name(f"{task.output.name}{CHUNKS}")
    if is_complete(task.output):
        report = read_report(task.output / REPORT)
        shutil.rmtree(folder, ignore_errors=True)
        return report
    parts = [folder / f"{number:06d}" for number in range(task.chunks)]
    joined = folder / task.output.name  # what its files are named after
    shutil.rmtree(joined, ignore_errors=True)
    join_bags(parts, joined)
    report = _merged(task, parts)
    write_json(joined / REPORT, asdict(report), indent=None)
    os.replace(joined, task.output)
    sync(task.output.parent)
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _merged(task: Task, parts: list[Path]) -> BagReport:
    reports = [read_report(part / REPORT) for part in parts]
    whole = reports[0]
    for report in reports[1:]:
        whole.add(report)
        whole.notes += [note for note in report.notes if note not in whole.notes]
    whole.output = str(task.output)
    # As sapnet bag would have it: the first chunk's options are of that alone.
    whole.job = {**whole.job, "options": json.loads(json.dumps(asdict(task.options)))}
    return whole
