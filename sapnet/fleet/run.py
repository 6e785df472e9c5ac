"""Submits a task per recording to Ray, keeps the ledger and writes the summary."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import sapnet
from sapnet.bags.derain import REPORT
from sapnet.bags.options import BagOptions
from sapnet.bags.report import read_report
from sapnet.errors import BagError, SapnetError, describe, first_line
from sapnet.files import read_json, write_json
from sapnet.fleet.connection import connected
from sapnet.fleet.ledger import DONE, FAILED, KEPT, PARTIAL, Ledger, Row, utc_now
from sapnet.fleet.plan import PARTIAL_SUFFIX, Bag, is_complete
from sapnet.fleet.worker import Progress, Work, WorkerError, derain_recording, row_of

LEDGER, JOB, SUMMARY = "ledger.jsonl", "fleet.json", "summary.json"
_LOCK = ".fleet.lock"
_WATCH_EVERY_S = 0.5
# Tasks that Ray is given at a time: more than any cluster has workers.
_MAX_SUBMITTED = 1000
# How long tasks may take to end in good order when the run is interrupted.
_GRACE_S = 15.0


@dataclass(frozen=True)
class FleetOptions:
    """How the work is distributed.

    workers: recordings at a time; 0 for as many as fit. cpus, gpus: of each worker, may be fractions.
    tries: attempts after which a recording is given up. address: of a Ray cluster; empty for this machine alone.
    """

    workers: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    tries: int = 3
    address: str = ""


@dataclass(frozen=True)
class Standing:
    """Progress of a fleet. done, total: bytes of recordings, those under way by their share. bags: finished."""

    done: float
    total: int
    bags: int
    failed: int


@dataclass
class FleetReport:
    """The result of a fleet, rows sorted by path.

    frames: derained in this run. seconds: elapsed. workers: processes that finished a recording.
    """

    output: str
    rows: list[Row] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0
    workers: int = 0

    def count(self, state: str) -> int:
        """Return the number of recordings in a state."""
        return sum(row.state == state for row in self.rows)


Watch = Callable[[Standing], None]


def derain_fleet(
    bags: Sequence[Bag],
    out: Path,
    network: Mapping[str, Any],
    options: BagOptions | None = None,
    fleet: FleetOptions | None = None,
    watch: Watch | None = None,
) -> FleetReport:
    """Derain recordings that ``plan_bags`` has paired with outputs in ``out``; complete outputs are kept.

    network: arguments of Derainer. ``out`` gets ledger.jsonl, with a Row for each recording as it ends, and
    summary.json. A recording that fails or loses its worker is retried; after the last attempt the others go on.
    Raises SapnetError if nothing can be done: another process uses ``out``, an earlier run had other options, Ray is
    missing, no node has room for a worker, or a node cannot derain at all.
    """
    options, fleet = options or BagOptions(), fleet or FleetOptions()
    began_s = time.monotonic()
    with _workplace(out, {"options": asdict(options), "network": _plain(network)}):
        ledger = Ledger(out / LEDGER)
        report = FleetReport(str(out), [_kept(bag, ledger) for bag in bags if is_complete(bag.output)])
        left = [bag for bag in bags if not is_complete(bag.output)]
        if left:
            work = Work(
                _placed(network, fleet), options, max(1, int(fleet.cpus)), (out / JOB).absolute(), sapnet.__version__
            )
            with connected(fleet.address, fleet.workers * fleet.cpus or len(os.sched_getaffinity(0))):
                _derain(left, work, fleet, ledger, report, watch)
        report.rows.sort(key=lambda row: row.input)
        report.seconds = round(time.monotonic() - began_s, 3)
        write_json(out / SUMMARY, as_json(report))
    return report


def as_json(report: FleetReport) -> dict[str, Any]:
    """Return what summary.json holds."""
    return {
        "output": report.output,
        "bags": len(report.rows),
        **{state: report.count(state) for state in (DONE, PARTIAL, KEPT, FAILED)},
        "frames": report.frames,
        "seconds": report.seconds,
        "fps": round(report.frames / report.seconds, 2) if report.seconds else 0.0,
        "workers": report.workers,
        "rows": [asdict(row) for row in report.rows],
    }


def _derain(
    bags: Sequence[Bag], work: Work, fleet: FleetOptions, ledger: Ledger, report: FleetReport, watch: Watch | None
) -> None:
    """Run the tasks, and add a row to ledger and report as each one ends."""
    ray: Any = import_module("ray")
    _require_room(ray.nodes(), fleet)
    # On the driver's node: it ends with the run alone, so that no count is lost with another node.
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    progress = ray.remote(num_cpus=0, scheduling_strategy=here)(Progress).remote()
    # max_calls=0: Ray would end the process, and with it the loaded network, after each task that has a GPU.
    task = ray.remote(
        num_cpus=fleet.cpus, num_gpus=fleet.gpus, max_retries=fleet.tries - 1, retry_exceptions=True, max_calls=0
    )(derain_recording)
    # The largest first, so that no worker is left alone with a long one at the end.
    waiting = sorted(bags, key=lambda bag: bag.size)
    running: dict[Any, Bag] = {}
    workers: set[str] = set()
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < (fleet.workers or _MAX_SUBMITTED):
                bag = waiting.pop()
                running[task.remote(bag, work, progress)] = bag
            for ref in ray.wait(list(running), timeout=_WATCH_EVERY_S)[0]:
                bag = running.pop(ref)
                try:
                    row, worker = ray.get(ref)
                except ray.exceptions.RayError as err:
                    row = _failed(bag, err, fleet.tries, report)
                else:
                    workers.add(worker)
                    report.frames += row.frames
                ledger.append(row)
                report.rows.append(row)
                done += bag.size
            if watch is not None:
                under_way = sum(bag.size * share for bag, share in _shares(ray, progress, running.values()))
                watch(Standing(done + under_way, sum(bag.size for bag in bags), len(report.rows), report.count(FAILED)))
    finally:
        for ref in running:
            ray.cancel(ref)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_GRACE_S)
    report.workers = len(workers)


def _require_room(nodes: Sequence[Mapping[str, Any]], fleet: FleetOptions) -> None:
    for node in nodes:
        has = node["Resources"]
        if node["Alive"] and has.get("CPU", 0) >= fleet.cpus and has.get("GPU", 0) >= fleet.gpus:
            return
    raise SapnetError(f"no node has {fleet.cpus:g} CPUs and {fleet.gpus:g} GPUs for a worker; ask for less")


def _shares(ray: Any, progress: Any, bags: Iterable[Bag]) -> Iterator[tuple[Bag, float]]:
    """What is done of recordings under way; nothing while the actor that knows is slow to answer."""
    try:
        shares = ray.get(progress.shares.remote(), timeout=_WATCH_EVERY_S)
    except ray.exceptions.GetTimeoutError:
        return
    yield from ((bag, shares.get(str(bag.output), 0.0)) for bag in bags)


def _failed(bag: Bag, err: Exception, tries: int, report: FleetReport) -> Row:
    """The row of a recording that was given up. Raises WorkerError if its node has never finished one."""
    cause = getattr(err, "cause", None) or err
    if isinstance(cause, WorkerError) and all(row.node != cause.node for row in report.rows):
        raise cause
    said = describe(cause) if cause is not err else f"the worker died ({type(err).__name__}: {first_line(err)})"
    return Row(str(bag.source), str(bag.output), FAILED, tries, bytes=bag.size, error=said, ended=utc_now())


def _kept(bag: Bag, ledger: Ledger) -> Row:
    """The row of a recording that is complete; added to the ledger if the run that derained it was killed before."""
    shutil.rmtree(bag.output.with_name(f"{bag.output.name}{PARTIAL_SUFFIX}"), ignore_errors=True)
    known = ledger.newest.get(str(bag.output))
    if known is not None and known.state != FAILED:
        state = PARTIAL if known.state == PARTIAL else KEPT
        return replace(known, input=str(bag.source), state=state)
    try:
        row = row_of(bag, read_report(bag.output / REPORT), KEPT)
    except SapnetError as err:
        row = Row(str(bag.source), str(bag.output), FAILED, bytes=bag.size, error=str(err), ended=utc_now())
    ledger.append(row)
    return row


def _placed(network: Mapping[str, Any], fleet: FleetOptions) -> dict[str, Any]:
    """Keep workers without a share of a GPU off it: all of a machine would use its first one."""
    chosen = network.get("device", "auto") == "auto" and network.get("backend", "auto") in ("auto", "torch")
    return {**network, "device": "cpu"} if chosen and not fleet.gpus else dict(network)


@contextmanager
def _workplace(out: Path, job: dict[str, Any]) -> Iterator[None]:
    """Lock the output folder, and check that it belongs to this job. Raises SapnetError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _LOCK, timeout=0):
            _check_job(out / JOB, json.loads(json.dumps(job)))
            yield
    except Timeout:
        raise SapnetError(f"another process writes to {out}; wait for it, or choose another output") from None
    except OSError as err:
        raise BagError(f"{out} cannot be written ({err.strerror or err}); check its permissions and space") from err


def _check_job(path: Path, job: dict[str, Any]) -> None:
    if not path.is_file():
        write_json(path, job)
        return
    before = read_json(path, f"choose another output, or move the file away to continue in {path.parent}")
    was, now = ({**values.get("options", {}), **values.get("network", {})} for values in (before, job))
    changed = [f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key]]
    if changed:
        raise SapnetError(
            f"{path.parent} was derained with other options: {', '.join(changed)}; use them, or choose another output"
        )


def _plain(network: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in network.items() if isinstance(value, (str, int, float))}
