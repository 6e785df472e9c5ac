"""Derains many recordings with a pool of workers, and keeps the ledger."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from sapnet.bags.derain import REPORT
from sapnet.bags.options import BagOptions
from sapnet.bags.report_data import read_report
from sapnet.errors import BagError, SapnetError
from sapnet.files import read_json, write_json
from sapnet.fleet.connection import connected
from sapnet.fleet.ledger import DONE, FAILED, KEPT, Ledger, Row, utc_now
from sapnet.fleet.plan import CHUNKS, PARTIAL, Bag, is_complete
from sapnet.fleet.pool import RayPool
from sapnet.fleet.schedule import Outcome, Schedule, Task

LEDGER, JOB, SUMMARY = "ledger.jsonl", "fleet.json", "summary.json"
_LOCK = ".fleet.lock"
_WAIT_S = 0.5
_WATCH_EVERY_S = 1.0  # each time all workers are asked


@dataclass(frozen=True)
class FleetOptions:
    """How to share the work out.

    workers: 0 for as many as there is room for. cpus, gpus: of each worker, also parts of one. chunk_s: derain
    recordings in chunks of so many seconds; 0 for whole. tries: failures after which a recording is given up.
    address: of a Ray cluster; empty for this machine alone.
    """

    workers: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    chunk_s: float = 0.0
    tries: int = 3
    address: str = ""


@dataclass(frozen=True)
class Standing:
    """How far it is. done: in bytes of the recordings, as those under way are counted by their share."""

    done: float
    total: int
    bags: int
    failed: int
    workers: int


@dataclass
class FleetReport:
    """What became of each recording, in the order of their paths. seconds: on the clock."""

    output: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    workers: int = 0

    def count(self, state: str) -> int:
        """Recordings that ended so."""
        return sum(row.state == state for row in self.rows)

    @property
    def frames(self) -> int:
        """Derained in this run."""
        return sum(row.frames for row in self.rows if row.state == DONE)


class Pool(Protocol):
    """Workers that take tasks."""

    size: int

    @property
    def idle(self) -> int:
        """Workers that wait for a task."""
        ...

    @property
    def working(self) -> int:
        """Workers that can work."""
        ...

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker."""
        ...

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome]]:
        """The tasks that have ended, waited for so long. Raises SapnetError."""
        ...

    def progress(self) -> dict[Task, float]:
        """How much of each task under way is done, 0 to 1."""
        ...

    def close(self) -> None:
        """End all workers in good order."""
        ...


Watch = Callable[[Standing], None]


def derain_fleet(
    bags: Sequence[Bag],
    out: Path,
    network: Mapping[str, Any],
    options: BagOptions | None = None,
    fleet: FleetOptions | None = None,
    watch: Watch | None = None,
) -> FleetReport:
    """Derain recordings that ``plan_bags`` has paired with outputs in ``out``; what is complete there is kept.

    network: arguments of Derainer. ``out`` gets ledger.jsonl, a Row for each recording as it ends, and summary.json.
    A recording that fails, or loses its worker, is tried again, and given up after ``tries``; the others go on.
    Raises SapnetError where nothing can be done: another process at work there, an earlier run with other options, no
    Ray, no worker that can work.
    """
    options, fleet = options or BagOptions(), fleet or FleetOptions()
    began_s = time.monotonic()
    job = {"options": asdict(options), "network": _plain(network), "chunk_s": fleet.chunk_s}
    with _workplace(out, job):
        ledger = Ledger(out / LEDGER)
        report = FleetReport(str(out), [_keep_or_fail(bag, ledger) for bag in bags if is_complete(bag.output)])
        left = [bag for bag in bags if not is_complete(bag.output)]
        if left:
            schedule = Schedule(left, options, fleet.chunk_s, fleet.tries)
            with connected(fleet.address, fleet.workers * fleet.cpus or _cores()):
                placed = _placed(network, fleet)
                pool = RayPool(fleet.workers, fleet.cpus, fleet.gpus, placed, (out / JOB).absolute())
                with closing(pool):
                    report.workers = pool.size
                    report.rows += perform(schedule, pool, left, ledger, watch)
        order = {str(bag.output): number for number, bag in enumerate(bags)}
        report.rows.sort(key=lambda row: order[row.output])
        report.seconds = round(time.monotonic() - began_s, 3)
        write_json(out / SUMMARY, as_json(report))
    return report


def perform(
    schedule: Schedule, pool: Pool, bags: Sequence[Bag], ledger: Ledger, watch: Watch | None = None
) -> list[Row]:
    """Have a pool do what a schedule holds; the rows, as the recordings end."""
    rows: list[Row] = []
    sizes = {bag: bag.size for bag in bags}
    worked: dict[Bag, float] = dict.fromkeys(bags, 0.0)
    watched_s = 0.0
    while not schedule.is_done:
        while pool.idle and (task := schedule.take(time.monotonic())) is not None:
            pool.submit(task)
        for task, outcome in pool.wait(_WAIT_S):
            worked[task.bag] += 0.0 if outcome.error else task.share
            row = schedule.end(task, outcome, time.monotonic())
            if row is not None:
                worked[task.bag] = 1.0
                ledger.append(row)
                rows.append(row)
        if watch is not None and (schedule.is_done or time.monotonic() - watched_s >= _WATCH_EVERY_S):
            watched_s = time.monotonic()
            watch(_standing(rows, sizes, worked, pool))
    return rows


def as_json(report: FleetReport) -> dict[str, Any]:
    """What summary.json holds."""
    return {
        "output": report.output,
        "bags": len(report.rows),
        **{state: report.count(state) for state in (DONE, KEPT, FAILED)},
        "frames": report.frames,
        "seconds": report.seconds,
        "fps": round(report.frames / report.seconds, 2) if report.seconds else 0.0,
        "workers": report.workers,
        "rows": [asdict(row) for row in report.rows],
    }


def _placed(network: Mapping[str, Any], fleet: FleetOptions) -> dict[str, Any]:
    """Keep workers without a share of a GPU off it: all of a machine's would crowd on its first one."""
    chosen = network.get("device", "auto") == "auto" and network.get("backend", "auto") in ("auto", "torch")
    return {**network, "device": "cpu"} if chosen and not fleet.gpus else dict(network)


def _standing(rows: Sequence[Row], sizes: Mapping[Bag, int], worked: Mapping[Bag, float], pool: Pool) -> Standing:
    shares = dict(worked)
    for task, progress in pool.progress().items():
        shares[task.bag] = min(1.0, shares[task.bag] + task.share * progress)
    done = sum(sizes[bag] * share for bag, share in shares.items())
    return Standing(done, sum(sizes.values()), len(rows), sum(row.state == FAILED for row in rows), pool.working)


def _keep_or_fail(bag: Bag, ledger: Ledger) -> Row:
    """The row of a recording that an earlier run has done: a failed one where nobody can read what that said of it."""
    try:
        return _keep(bag, ledger)
    except BagError as err:
        row = Row(str(bag.source), str(bag.output), FAILED, bytes=bag.size, error=str(err), ended=utc_now())
        ledger.append(row)
        return row


def _keep(bag: Bag, ledger: Ledger) -> Row:
    """The row of a recording; entered, where the run that did it was killed before it could. Raises BagError."""
    for left in (PARTIAL, CHUNKS):
        shutil.rmtree(bag.output.with_name(f"{bag.output.name}{left}"), ignore_errors=True)
    known = ledger.newest.get(str(bag.output))
    if known is not None and known.state != FAILED:
        return Row(**{**asdict(known), "input": str(bag.source), "state": KEPT})
    found = read_report(bag.output / REPORT)
    row = Row(
        str(bag.source),
        str(bag.output),
        KEPT,
        frames=found.frames,
        unreadable=sum(camera.unreadable for camera in found.cameras),
        messages=found.messages,
        bytes=bag.size,
        seconds=found.seconds,
        notes=found.notes,
        ended=utc_now(),
    )
    ledger.append(row)
    return row


@contextmanager
def _workplace(out: Path, job: dict[str, Any]) -> Iterator[None]:
    """The output folder, locked, and found to be this job's. Raises SapnetError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _LOCK, timeout=0):
            _check_job(out / JOB, json.loads(json.dumps(job)))
            yield
    except Timeout:
        raise SapnetError(f"another process is deraining to {out}; wait for it, or name another output") from None
    except OSError as err:
        raise BagError(f"{out} cannot be written ({err.strerror or err}); make room, or mend its rights") from err


def _check_job(path: Path, job: dict[str, Any]) -> None:
    if not path.is_file():
        write_json(path, job)
        return
    before = read_json(path, f"name another output, or move it away to go on with what is in {path.parent}")
    was, asked = _flat(before), _flat(job)
    changed = [f"{key} was {was.get(key)!r}, now {asked[key]!r}" for key in asked if was.get(key) != asked[key]]
    if changed:
        raise SapnetError(
            f"{path.parent} was derained otherwise: {', '.join(changed)}; ask for the same, or name another output"
        )


def _flat(job: Mapping[str, Any]) -> dict[str, Any]:
    return {**job.get("options", {}), **job.get("network", {}), "chunk_s": job.get("chunk_s")}


def _plain(network: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in network.items() if isinstance(value, (str, int, float))}


def _cores() -> float:
    return float(len(os.sched_getaffinity(0)))
