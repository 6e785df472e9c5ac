"""Fleets on a Ray cluster of two nodes on this machine, whose workers, nodes and drivers are killed while they work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from typing import Any

import psutil
import pytest
import slow_fleet
from ctrl_c import heed_ctrl_c
from filelock import FileLock
from rich.progress import Progress
from waiting import children_running, eventually

from bag_builders import START_NS, Sent, camera, drive, recorded, split_bag, text, write_bag
from sapnet import Derainer
from sapnet.bags import open_recording
from sapnet.bags.cameras import BagOptions
from sapnet.bags.derain import derain_bag
from sapnet.cli import main
from sapnet.errors import SapnetError
from sapnet.fleet import FleetOptions, FleetReport, derain_fleet, plan_bags

ROOT = Path(__file__).resolve().parents[3]
FAKE = {"backend": "fake"}
# So that the first worker has not done all recordings before the second has started.
SLOW = {"backend": "fake", "fake": {"latency_ms": 120.0}}
WORKING = "ray::derain_recording"  # Ray's name for a process that runs a task
Messages = list[Sent]
Run = Callable[..., FleetReport]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU each, and this process connected to them; both have a worker that is ready."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/fleet.txt")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a cluster that was started in the background
    # A lost node is noticed after five failed health checks, which are three seconds apart by default.
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**node, "_system_config": {"health_check_period_ms": 500}})
    add_node(made)
    signal.signal(signal.SIGINT, before)
    ray.init(address=made.address, log_to_driver=False)
    # A second long, so that one process does not run both tasks.
    ready = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(lambda: time.sleep(1.0))
    ray.get([ready.remote() for _ in range(2)])
    yield made
    ray.shutdown()
    made.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)


def record_drive(path: Path, frames: int, storage: str = "mcap") -> Path:
    return write_bag(path, [*drive(frames), text("/note", START_NS, path.name)], storage)


def alone(drives: Path, out: Path) -> dict[str, Messages]:
    """What each recording contains when it is derained without a fleet."""
    with Derainer(backend="fake") as derainer:
        for bag in plan_bags([str(drives)], out):
            Path(bag.output).parent.mkdir(parents=True, exist_ok=True)
            derain_bag(derainer, Path(bag.input), Path(bag.output))
    return contents(out)


def contents(out: Path) -> dict[str, Messages]:
    """Messages of every recording in a folder, by its name there."""
    found = {}
    for metadata in sorted(out.rglob("metadata.yaml")):
        with open_recording(metadata.parent) as bag:
            found[str(metadata.parent.relative_to(out))] = recorded(bag)
            assert bag.notes == []
    return found


def states(report: FleetReport) -> dict[str, str]:
    return {Path(row.input).name: row.state for row in report.rows}


@pytest.fixture
def run(cluster: Any, tmp_path: Path) -> Run:
    """``run(**fleet)``: a fleet from ``tmp_path/drives``, three recordings at first, to ``tmp_path/out``."""
    for name, storage in (("a", "mcap"), ("b", "sqlite3"), ("c", "mcap")):
        record_drive(tmp_path / "drives" / name, 12, storage)

    def derain(options: BagOptions | None = None, bar: Progress | None = None, **fleet: Any) -> FleetReport:
        out = tmp_path / "out"
        return derain_fleet(plan_bags([str(tmp_path / "drives")], out), out, FAKE, options, FleetOptions(**fleet), bar)

    return derain


def test_every_recording_is_derained_as_it_is_alone(tmp_path: Path, run: Run) -> None:
    bar = Progress(disable=True)
    report = run(bar=bar)
    assert states(report) == dict.fromkeys("abc", "done")
    assert [(task.description, task.percentage) for task in bar.tasks] == [("recordings: 3", 100.0)]
    assert contents(tmp_path / "out") == alone(tmp_path / "drives", tmp_path / "alone")
    rows = [json.loads(line) for line in (tmp_path / "out/ledger.jsonl").read_text().splitlines()]
    figures = sorted((Path(row["input"]).name, row["frames"], row["messages"]) for row in rows)
    assert figures == [(name, 12, 49) for name in "abc"]
    assert all(row["started"] <= row["ended"] for row in rows)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["bags"], summary["done"], summary["failed"], summary["frames"]) == (3, 3, 0, 36)


def test_a_second_run_keeps_what_is_whole_and_does_the_rest(tmp_path: Path, run: Run) -> None:
    run()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mcap")}
    shutil.rmtree(tmp_path / "out/b")
    ledger = tmp_path / "out/ledger.jsonl"
    whole = ledger.read_text().splitlines(keepends=True)
    lost = json.loads(whole[2])["output"]
    ledger.write_text("".join(whole[:2]) + whole[2][:40])  # as a kill leaves it
    report = run()
    kept = {name for name in "ac" if not lost.endswith(name)}
    assert states(report) == {name: "kept" if name in kept else "done" for name in "abc"}
    assert ([row.frames for row in report.rows], report.frames) == ([12, 12, 12], 12 * (3 - len(kept)))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mcap")} == before
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert {row["output"] for row in rows} == {row.output for row in report.rows}
    assert set(states(run()).values()) == {"kept"}
    assert len(ledger.read_text().splitlines()) == len(rows)


def test_recordings_that_fail_fail_alone_and_are_tried_by_the_next_run(tmp_path: Path, run: Run) -> None:
    write_bag(tmp_path / "drives/dry", [text("/note", START_NS, "no camera")])
    (tmp_path / "drives/noise.mcap").write_bytes(b"no recording")
    (tmp_path / "out/c").mkdir(parents=True)
    (tmp_path / "out/c/mine").write_text("kept")
    frames = camera(4)
    split_bag(tmp_path / "drives/cut", [frames[:3], frames[3:]])
    (tmp_path / "drives/cut/cut_1.mcap").unlink()
    report = run(tries=2)
    failed = {"c": "exists already", "dry": "camera; name an image topic with --topic", "noise.mcap": "noise.mcap"}
    assert states(report) == {"a": "done", "b": "done", "cut": "partial", **dict.fromkeys(failed, "failed")}
    [cut] = [row for row in report.rows if row.state == "partial"]
    assert (cut.frames, "cut_1.mcap" in cut.notes[0]) == (3, True)
    for row in report.rows:
        if row.state == "failed":
            assert failed[Path(row.input).name] in row.error
            assert row.attempts == 2
    assert (tmp_path / "out/c/mine").read_text() == "kept"
    shutil.rmtree(tmp_path / "out/c")
    again = states(run(tries=1))
    assert (again["a"], again["c"], again["cut"]) == ("kept", "done", "partial")


def test_other_options_and_damaged_files_of_the_output_are_refused(tmp_path: Path, run: Run) -> None:
    run()
    with pytest.raises(SapnetError, match="with other options: compressed was '', now 'jpeg'; use them"):
        run(options=BagOptions(compressed="jpeg"))
    (tmp_path / "out/a/sapnet_report.json").write_text("")
    (tmp_path / "out/ledger.jsonl").unlink()
    report = run(tries=1)
    assert states(report) == {"a": "failed", "b": "done", "c": "done"}
    assert "out/a/sapnet_report.json is damaged (" in report.rows[0].error
    with (
        FileLock(tmp_path / "out/.fleet.lock", timeout=0),
        pytest.raises(SapnetError, match="another process writes to"),
    ):
        run()
    (tmp_path / "out/fleet.json").write_text("")
    with pytest.raises(SapnetError, match=r"out/fleet\.json is damaged \(.*; choose another output, or move the file"):
        run()


@pytest.fixture(scope="session")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "drives"
    for bag in range(4):
        record_drive(folder / f"day{bag % 2}" / f"drive{bag}", 30, ("mcap", "sqlite3")[bag % 2])
    return folder


def worker_of(node: Any) -> psutil.Process:
    """The process of a node that runs a task."""
    workers = children_running(WORKING, psutil.Process(node.all_processes["raylet"][0].process.pid))
    assert workers, "no worker of the node runs a task"
    return workers[0]


def at_work(out: Path) -> list[Path]:
    """Folders of recordings with a file that is not complete: it is not in their journal."""

    def is_open(folder: Path) -> bool:
        journal = folder / "journal.jsonl"
        complete = len(journal.read_text().splitlines()) if journal.is_file() else 0
        return len([*glob(f"{folder}/bag/*.mcap"), *glob(f"{folder}/bag/*.db3")]) > complete

    # Unlike Path.rglob, this bears folders that are removed meanwhile.
    return [folder for name in glob(f"{out}/**/*.partial", recursive=True) if is_open(folder := Path(name))]


@pytest.mark.parametrize("lost", ["worker", "node"])
def test_the_task_of_a_killed_worker_or_a_lost_node_is_retried(
    lost: str, cluster: Any, drives: Path, tmp_path: Path
) -> None:
    out, node = tmp_path / "out", next(iter(cluster.worker_nodes))

    def strike() -> None:
        eventually(lambda: len(at_work(out)) == 2)
        worker = worker_of(node)
        worker.suspend()  # so that it is still at it when it is killed
        if lost == "node":
            cluster.remove_node(node, allow_graceful=False)
        worker.kill()

    try:
        with ThreadPoolExecutor(1) as executor:
            done = executor.submit(strike)
            report = derain_fleet(plan_bags([str(drives / "**")], out), out, SLOW)
            done.result()
    finally:
        if lost == "node":
            add_node(cluster)
    assert sorted((row.state, row.attempts) for row in report.rows) == [*[("done", 1)] * 3, ("done", 2)]
    rows = [json.loads(line)["output"] for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert sorted(rows) == sorted({row.output for row in report.rows})
    assert contents(out) == alone(drives, tmp_path / "alone")
    assert not [*out.rglob("*.partial")]


def command(*words: object) -> subprocess.Popen[str]:
    """A fleet on the slow fake backend, with these arguments."""
    return subprocess.Popen(
        [sys.executable, slow_fleet.__file__, *map(str, words), "--backend", "fake", "--retries", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "test")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def test_an_interrupted_command_resumes_and_says_what_failed(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First interrupted on a Ray of its own, then terminated on the cluster, whose processes ignore Ctrl-C."""
    for name in ("a", "b"):
        record_drive(tmp_path / "drives" / name, 80)
    (tmp_path / "drives/noise.mcap").write_bytes(b"no recording")
    out = tmp_path / "out"
    said = {}
    for sent, workers, more in (
        (signal.SIGINT, 1, ["--workers", "1"]),
        (signal.SIGTERM, 2, ["--address", cluster.address]),
    ):
        first = command(f"{tmp_path}/drives/**", "-o", out, *more)
        try:
            eventually(lambda p=first, n=workers: len(at_work(out)) == n or p.poll() is not None)
            assert first.poll() is None, first.communicate()
            first.send_signal(sent)
            said[sent] = first.communicate(timeout=60)
        finally:
            first.kill()
        assert first.returncode == 128 + sent, said
        assert [*out.glob("*.partial")]
        assert not [*at_work(out), *out.rglob("sapnet_report.json")]  # each worker closed its file
    assert said == {signal.SIGINT: ("", "sapnet: interrupted\n"), signal.SIGTERM: ("", "")}

    again = ["fleet", f"{tmp_path}/drives/**", "-o", str(out), "--backend", "fake", "--retries", "2", "--json"]
    assert main(again) == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert {Path(row["input"]).name: (row["state"], row["frames"]) for row in summary["rows"]} == {
        "a": ("done", 80),
        "b": ("done", 80),
        "noise.mcap": ("failed", 0),
    }
    assert not [*out.glob("*.partial")]


@pytest.mark.parametrize(
    ("network", "options", "said"),
    [
        (FAKE, {"gpus": 64.0}, "no node has 1 CPUs and 64 GPUs for a worker; ask for less"),
        ({**FAKE, "fake": {"mode": "explode"}}, {}, r"/\w+ cannot derain: got fake option mode 'explode'"),
    ],
)
def test_work_that_no_node_can_do_is_an_error(
    cluster: Any, drives: Path, tmp_path: Path, network: dict[str, Any], options: dict[str, float], said: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SapnetError, match=said):
        derain_fleet(plan_bags([str(drives)], out), out, network, None, FleetOptions(**options, tries=1))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "cannot connect to the Ray cluster at 127.0.0.1:9: "),
        ("somewhere", "expected HOST:PORT of the head node, or auto"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_in_one_line(
    drives: Path, tmp_path: Path, address: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/fleet.txt")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # a connection that stands would be used
    assert main(["fleet", str(drives), "-o", str(tmp_path / "out"), "--backend", "fake", "--address", address]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert said in error
