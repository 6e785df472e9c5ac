"""Fleets on a real Ray cluster of two nodes on this machine, whose workers, nodes and drivers are killed in mid-run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import bag_fleet
import pytest
from ctrl_c import heed_ctrl_c

from bag_builders import FRAME_NS, START_NS, image, smooth_frames, text, write_bag
from sapnet import Derainer
from sapnet.bags import open_recording
from sapnet.bags.derain import derain_bag
from sapnet.errors import SapnetError
from sapnet.fleet import FleetOptions, FleetReport, derain_fleet, plan_bags
from sapnet.fleet.ledger import Ledger
from sapnet.fleet.pool import RayPool

pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/fleet.txt")

ROOT = Path(__file__).resolve().parents[2]
BAGS, FRAMES = 4, 30
SLOW = {"backend": "fake", "options": {"latency_ms": 40.0}}
MARK = "SAPNET_TEST_FLEET"
WORKING = "ray::_Actor.work"  # what Ray calls a process that is at a task
WAIT_S = 60.0

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers in /proc, as Linux has it")


@pytest.fixture(scope="module")
def mark() -> Iterator[str]:
    """What tells the processes of this module's clusters from all others: a word in their environment."""
    os.environ[MARK] = uuid4().hex
    yield os.environ[MARK]
    del os.environ[MARK]


@pytest.fixture(scope="module")
def cluster(mark: str) -> Iterator[Any]:
    """Two nodes with room for one worker each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    # A node that is gone is noticed after five questions; by default there are three seconds between these.
    asking = {"health_check_period_ms": 500}
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20, "_system_config": asking}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def _begin_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes seconds to start: the first one alone could be done with all before the second one is there."""
    monkeypatch.setattr(RayPool, "idle", bag_fleet.idle_together)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "drives"
    frames = smooth_frames(FRAMES)
    for bag in range(BAGS):
        sent = []
        for number, frame in enumerate(frames):
            stamp_ns = START_NS + number * FRAME_NS
            sent += [image("/cam/image_raw", stamp_ns, frame), text("/note", stamp_ns + 2_000_000, f"{bag} {number}")]
        (folder / f"day{bag % 2}").mkdir(parents=True, exist_ok=True)
        write_bag(folder / f"day{bag % 2}" / f"drive{bag}", sent, ("mcap", "sqlite3")[bag % 2])
    return folder


@pytest.fixture(scope="module")
def expected(drives: Path) -> dict[str, list[Any]]:
    """What each recording holds when it was derained alone."""
    with Derainer(backend="fake") as derainer:
        for bag in plan_bags([str(drives)], drives.parent / "alone"):
            bag.output.parent.mkdir(parents=True, exist_ok=True)
            derain_bag(derainer, bag.source, bag.output)
    return contents(drives.parent / "alone")


def contents(out: Path) -> dict[str, list[Any]]:
    """Messages of every recording in a folder, by its name there."""
    found = {}
    for metadata in sorted(out.rglob("metadata.yaml")):
        with open_recording(metadata.parent) as bag:
            sent = [(m.topic.name, m.topic.type, m.time_ns, m.data) for m in bag.messages()]
            assert bag.notes == []
        found[str(metadata.parent.relative_to(out))] = sent
    return found


def processes(mark: str, title: str) -> list[int]:
    """Processes of this module's clusters whose command line begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                named = (entry / "cmdline").read_bytes().startswith(title.encode())
                if named and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def stop_in_mid_task(mark: str, parent: int | None = None) -> int:
    """Stop a worker that is at work, one of that parent if any, so that it is still at it when it is struck."""
    stopped: list[int] = []

    def stop() -> bool:
        for worker in processes(mark, WORKING):
            try:
                if parent in (None, parent_of(worker)):
                    os.kill(worker, signal.SIGSTOP)
                    if worker in processes(mark, WORKING):
                        stopped.append(worker)
                        return True
                    os.kill(worker, signal.SIGCONT)
            except OSError:  # it has ended meanwhile
                continue
        return False

    wait_until(stop)
    return stopped[0]


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until(what: Callable[[], object]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < until_s, "it did not come to that"
        time.sleep(0.05)


def working(out: Path, mark: str) -> bool:
    """Whether two workers are in the middle of recordings, after a first one is done."""
    return len(processes(mark, WORKING)) == 2 and any(out.rglob("sapnet_report.json"))


def fleet_while(
    what: Callable[[], None], drives: Path, out: Path, address: str, mark: str, **options: Any
) -> FleetReport:
    """Run a fleet, and once it is at work do ``what`` beside it."""

    def strike() -> None:
        wait_until(lambda: working(out, mark))
        what()

    bags = plan_bags([str(drives / "**")], out)
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(strike)
        report = derain_fleet(bags, out, SLOW, None, FleetOptions(address=address, **options))
        done.result()
    return report


def require_whole(report: FleetReport, out: Path, expected: dict[str, list[Any]]) -> None:
    """Every recording is there, once, and as it is alone."""
    assert [row.state for row in report.rows] == ["done"] * BAGS
    assert len({row.output for row in report.rows}) == BAGS
    rows = [json.loads(line)["output"] for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert sorted(rows) == sorted(row.output for row in report.rows)
    assert contents(out) == expected
    assert not [path for path in out.rglob("*") if path.suffix in (".partial", ".chunks")]


def test_a_killed_worker_is_replaced(
    cluster: Any, mark: str, drives: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    def kill() -> None:
        os.kill(stop_in_mid_task(mark), signal.SIGKILL)

    report = fleet_while(kill, drives, tmp_path / "out", cluster.address, mark)
    require_whole(report, tmp_path / "out", expected)
    assert sum(row.attempts for row in report.rows) == BAGS + 1
    (lost,) = [row for row in report.rows if row.attempts == 2]
    assert "died" in lost.error


def test_a_killed_driver_leaves_what_the_next_goes_on_from(
    cluster: Any, mark: str, drives: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = (
        "import bag_fleet; from pathlib import Path; from sapnet.fleet import *; bag_fleet.begin_together(); "
        f"derain_fleet(plan_bags([{str(drives)!r}], Path({str(out)!r})), Path({str(out)!r}), {SLOW!r}, None, "
        f"FleetOptions(address={cluster.address!r}))"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], env=environment(), stderr=subprocess.DEVNULL)
    wait_until(lambda: working(out, mark))
    driver.kill()
    driver.wait()
    report = derain_fleet(plan_bags([str(drives)], out), out, SLOW, None, FleetOptions(address=cluster.address))
    states = [row.state for row in report.rows]
    assert set(states) == {"kept", "done"}
    assert contents(out) == expected
    assert len(Ledger(out / "ledger.jsonl").newest) == BAGS


def environment() -> dict[str, str]:
    """In which programs find what is tested here, and its helpers."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "test")])}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two recordings, and a file that is none."""
    frames = smooth_frames(10)
    for name in ("a", "b"):
        sent = (image("/cam/image_raw", START_NS + n * FRAME_NS, frames[n % 10]) for n in range(100))
        (tmp_path / "mixed").mkdir(exist_ok=True)
        write_bag(tmp_path / "mixed" / name, sent)
    (tmp_path / "mixed/broken.mcap").write_bytes(b"no recording")
    return tmp_path / "mixed"


def command(*words: str | Path) -> subprocess.Popen[str]:
    """``sapnet fleet`` on the fake backend; words: of Python, up to its own, and of the command."""
    more = ["--backend", "fake", "--retries", "1"]
    return subprocess.Popen(
        [sys.executable, *map(str, words), *more],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def test_an_interrupted_fleet_goes_on_and_says_what_failed(cluster: Any, mixed: Path, tmp_path: Path) -> None:
    """First on a Ray of its own on this machine, then on the cluster."""
    out = tmp_path / "out"
    first = command(Path(bag_fleet.__file__), f"{mixed}/**", "-o", out, "--workers", "1")
    try:
        wait_until(lambda: (out / "a.partial/part").is_dir() or first.poll() is not None)
        assert first.poll() is None, first.communicate()
        first.send_signal(signal.SIGINT)
        said = first.communicate(timeout=WAIT_S)[1]
    finally:
        first.kill()
    assert first.returncode == 130, said
    assert "interrupted" in said
    assert not (out / "a").exists()
    assert (out / "a.partial/journal.jsonl").is_file()

    second = command("-m", "sapnet", "fleet", f"{mixed}/**", "-o", out, "--address", cluster.address, "--json")
    printed, said = second.communicate(timeout=2 * WAIT_S)
    assert second.returncode == 1, said
    summary = json.loads(printed)
    assert summary == json.loads((out / "summary.json").read_text())
    assert {Path(row["input"]).name: row["state"] for row in summary["rows"]} == {
        "a": "done",
        "b": "done",
        "broken.mcap": "failed",
    }
    assert [row["frames"] for row in summary["rows"]] == [100, 100, 0]
    assert summary["workers"] == 2


def test_a_lost_node_leaves_its_work_to_the_others(
    cluster: Any, mark: str, drives: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    """In chunks, with one try: that a node is gone is no fault of a recording."""
    node = next(iter(cluster.worker_nodes))

    def lose() -> None:
        worker = stop_in_mid_task(mark, node.all_processes["raylet"][0].process.pid)
        cluster.remove_node(node, allow_graceful=False)
        os.kill(worker, signal.SIGKILL)

    report = fleet_while(lose, drives, tmp_path / "out", cluster.address, mark, chunk_s=0.5, tries=1)
    require_whole(report, tmp_path / "out", expected)
    assert all(row.chunks == 3 for row in report.rows)
    assert sum(row.attempts for row in report.rows) > BAGS


def test_a_worker_that_no_node_has_room_for_is_said(cluster: Any, drives: Path, tmp_path: Path) -> None:
    options = FleetOptions(address=cluster.address, gpus=64.0)
    with pytest.raises(SapnetError, match="no node has 1 CPUs and 64 GPUs, as a worker needs; ask for less"):
        derain_fleet(plan_bags([str(drives)], tmp_path / "out"), tmp_path / "out", SLOW, None, options)


def test_workers_that_cannot_work_are_said(cluster: Any, drives: Path, tmp_path: Path) -> None:
    network = {"backend": "fake", "options": {"latency_ms": -1.0}}
    options = FleetOptions(address=cluster.address)
    with pytest.raises(SapnetError, match=r"no worker can work: got fake option latency_ms -1\.0"):
        derain_fleet(plan_bags([str(drives)], tmp_path / "out"), tmp_path / "out", network, None, options)
