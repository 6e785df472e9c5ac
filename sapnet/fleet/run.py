"""Connects to Ray, submits a task per recording, retries it, and keeps the ledger."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.progress import Progress as ProgressBar

import sapnet
from sapnet.bags.cameras import BagOptions
from sapnet.bags.derain import REPORT
from sapnet.errors import BagError, SapnetError, describe, first_line
from sapnet.files import append_line, read_json, write_json
from sapnet.fleet.ledger import FAILED, KEPT, PARTIAL, FleetReport, Row, read_ledger, utc_now
from sapnet.fleet.worker import WorkerError, derain_recording

INSTALL = "run pip install '.[fleet]' in the repository"
LEDGER, JOB, SUMMARY = "ledger.jsonl", "fleet.json", "summary.json"
_LOCK = ".fleet.lock"
# Tasks that Ray is given at a time: more than any cluster has workers.
_MAX_SUBMITTED = 1000
# How long tasks may take to end in good order when the run is interrupted.
_GRACE_S = 15.0
_REACHED_WITHIN_S = 10.0
# Only tasks and their results go through Ray; this is the least that it takes.
_OBJECT_STORE_BYTES = 80 * 2**20


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


def derain_fleet(
    bags: Sequence[Row],
    out: Path,
    network: Mapping[str, Any],
    options: BagOptions | None = None,
    fleet: FleetOptions | None = None,
    bar: ProgressBar | None = None,
) -> FleetReport:
    """Derain recordings that ``plan_bags`` has paired with outputs in ``out``; complete outputs are kept.

    network: arguments of Derainer that JSON can hold. ``out`` gets ledger.jsonl, with a Row for each recording as it
    ends, and summary.json. A recording that fails or loses its worker is retried; after the last attempt the others go
    on. bar: gets a task that counts bytes of recordings.
    Raises SapnetError if nothing can be done: another process uses ``out``, an earlier run had other options, Ray is
    missing, no node has room for a worker, or a node cannot derain at all.
    """
    options, fleet, bar = options or BagOptions(), fleet or FleetOptions(), bar or ProgressBar(disable=True)
    began_s = time.monotonic()
    with _workplace(out, {"options": asdict(options), "network": dict(network)}):
        newest, report, left = read_ledger(out / LEDGER), FleetReport(str(out)), []
        for bag in bags:
            row = newest.get(bag.output)
            if row is None or row.state == FAILED or not (Path(bag.output) / REPORT).is_file():
                left.append(bag)
            else:
                report.rows.append(replace(row, input=bag.input, state=PARTIAL if row.state == PARTIAL else KEPT))
        if left:
            work = {"network": _placed(network, fleet), "options": options, "version": sapnet.__version__}
            work["marker"] = (out / JOB).absolute()
            show = partial(bar.update, bar.add_task("starting Ray", total=None))
            with _connected(fleet.address, fleet.workers * fleet.cpus or len(os.sched_getaffinity(0))) as ray:
                _derain(ray, left, work, fleet, report, show)
        report.rows.sort(key=lambda row: row.input)
        report.seconds = round(time.monotonic() - began_s, 3)
        write_json(out / SUMMARY, report.as_json())
    return report


def _derain(
    ray: Any,
    bags: Sequence[Row],
    work: Mapping[str, Any],
    fleet: FleetOptions,
    report: FleetReport,
    show: Callable[..., None],
) -> None:
    """Run the tasks, and add a row to ledger and report as each one ends. show: updates the bar's task."""
    free = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(has.get("CPU", 0) >= fleet.cpus and has.get("GPU", 0) >= fleet.gpus for has in free):
        raise SapnetError(f"no node has {fleet.cpus:g} CPUs and {fleet.gpus:g} GPUs for a worker; ask for less")
    # Retried below, where attempts are counted. max_calls=0: Ray would end the process, and with it the loaded
    # network, after each task that has a GPU.
    task = ray.remote(num_cpus=fleet.cpus, num_gpus=fleet.gpus, max_retries=0, max_calls=0)(derain_recording)
    # The largest first, so that no worker is left alone with a long one at the end.
    waiting = [(bag, 1) for bag in sorted(bags, key=lambda bag: bag.bytes)]
    running: dict[Any, tuple[Row, int]] = {}
    show(description="recordings", total=sum(bag.bytes for bag in bags))
    try:
        while waiting or running:
            while waiting and len(running) < (fleet.workers or _MAX_SUBMITTED):
                bag, attempt = waiting.pop()
                running[task.remote(bag, attempt, **work)] = bag, attempt
            [ref] = ray.wait(list(running))[0]
            bag, attempt = running.pop(ref)
            try:
                row = ray.get(ref)
            except ray.exceptions.RayError as err:
                if attempt < fleet.tries:
                    waiting.append((bag, attempt + 1))
                    continue
                row = _failed(bag, err, attempt, report)
            report.frames += row.frames
            append_line(Path(report.output) / LEDGER, asdict(row))
            report.rows.append(row)
            failed = f", {report.count(FAILED)} failed" if report.count(FAILED) else ""
            show(advance=bag.bytes, description=f"recordings: {len(report.rows)}{failed}")
    finally:
        for ref in running:
            ray.cancel(ref)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_GRACE_S)


@contextmanager
def _connected(address: str, cpus: float) -> Iterator[Any]:
    """Ray, connected to the cluster at ``address`` or, if that is empty, started on this machine with so many CPUs.

    A connection that this process already has is used and left open. For the main thread, as it handles SIGTERM: as
    this process did before. Raises SapnetError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = import_module("ray")
    except ImportError as err:
        raise SapnetError(f"a fleet needs Ray ({err}); install it: {INSTALL}") from err
    if ray.is_initialized():
        yield ray
        return
    settings: dict[str, Any] = {"address": address}
    if not address:
        settings = {"address": "local", "num_cpus": max(1, math.ceil(cpus)), "include_dashboard": False}
        settings["object_store_memory"] = _OBJECT_STORE_BYTES
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        # Ray itself would try for minutes where nothing listens.
        host, separator, port = address.rpartition(":")
        if separator and port.isdecimal():
            socket.create_connection((host, int(port)), _REACHED_WITHIN_S).close()
        elif address not in ("", "auto"):
            raise ValueError(f"got {address!r}, expected HOST:PORT of the head node, or auto")
        ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as err:  # Ray raises that itself, where the machine is too busy to start it in time
        where = f"connect to the Ray cluster at {address}" if address else "start Ray on this machine"
        raise SapnetError(f"cannot {where}: {first_line(err)}; see docs/fleet.md") from err
    signal.signal(signal.SIGTERM, on_sigterm)  # in place of Ray's handler, which prints a stack trace
    try:
        yield ray
    except SystemExit:  # whose status Ray's calls turn into 1
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        ray.shutdown()


def _failed(bag: Row, err: Exception, tries: int, report: FleetReport) -> Row:
    """The row of a recording that was given up. Raises WorkerError if its node has never finished one."""
    cause = getattr(err, "cause", None) or err
    if isinstance(cause, WorkerError) and all(row.node != cause.args[0] for row in report.rows):
        raise cause
    said = describe(cause) if cause is not err else f"the worker died ({type(err).__name__}: {first_line(err)})"
    return replace(bag, state=FAILED, attempts=tries, error=said, ended=utc_now())


def _placed(network: Mapping[str, Any], fleet: FleetOptions) -> dict[str, Any]:
    """The network of a worker on its cores, and off the GPU without a share of it: all would use the first one."""
    chosen = network.get("device", "auto") == "auto" and network.get("backend", "auto") in ("auto", "torch")
    return {**network, "threads": max(1, int(fleet.cpus)), **({"device": "cpu"} if chosen and not fleet.gpus else {})}


@contextmanager
def _workplace(out: Path, job: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Lock the output folder, and check that it belongs to this job. Raises SapnetError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _LOCK, timeout=0):
            if not (out / JOB).is_file():
                write_json(out / JOB, job)
            before = read_json(out / JOB, f"choose another output, or move the file away to continue in {out}")
            changed = [
                f"{key} was {was!r}, now {now!r}"
                for part, values in json.loads(json.dumps(job)).items()
                for key, now in values.items()
                if (was := before.get(part, {}).get(key)) != now
            ]
            if changed:
                said = f"{out} was derained with other options: {', '.join(changed)}"
                raise SapnetError(f"{said}; use them, or choose another output")
            yield
    except Timeout:
        raise SapnetError(f"another process writes to {out}; wait for it, or choose another output") from None
    except OSError as err:
        raise BagError(f"{out} cannot be written ({err.strerror or err}); check its permissions and space") from err
