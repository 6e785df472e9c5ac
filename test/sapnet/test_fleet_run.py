"""Fleets with workers of this process, in place of Ray's: what is kept, the ledger, chunks, faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from bag_builders import FRAME_NS, START_NS, image, smooth_frames, text, write_bag
from sapnet import Derainer, __version__
from sapnet.bags import open_recording
from sapnet.bags.derain import derain_bag
from sapnet.bags.options import BagOptions
from sapnet.errors import SapnetError
from sapnet.fleet import Bag, FleetOptions, FleetReport, Standing, derain_fleet, plan_bags
from sapnet.fleet.ledger import Ledger, Row
from sapnet.fleet.run import perform
from sapnet.fleet.schedule import JOIN, PROBE, Outcome, Schedule, Task
from sapnet.fleet.worker import Worker

FAKE = {"backend": "fake"}
Messages = list[tuple[str, str, int, bytes]]


class OwnPool:
    """Workers of this process, one task at a time each. faults: by input's name, outcomes that come first."""

    def __init__(self, size: int = 1, faults: dict[str, list[Outcome]] | None = None) -> None:
        self.size = size
        self.faults = faults or {}
        self.done: list[Task] = []
        self._workers = [Worker(FAKE, 1) for _ in range(size)]
        self._given: list[Task] = []

    @property
    def idle(self) -> int:
        return self.size - len(self._given)

    @property
    def working(self) -> int:
        return self.size

    def submit(self, task: Task) -> None:
        self._given.append(task)

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome]]:
        ended = []
        for worker, task in zip(self._workers, self._given, strict=False):
            faults = self.faults.get(task.bag.source.name)
            ended.append((task, faults.pop(0) if faults else worker.work(task)))
            self.done.append(task)
        self._given = []
        return ended

    def progress(self) -> dict[Task, float]:
        return dict.fromkeys(self._given, 0.5)

    def close(self) -> None:
        """Nothing runs on."""


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """Three recordings of 12 frames and 12 notes each, 40 ms apart."""
    frames = smooth_frames(12)
    for name, storage in (("a", "mcap"), ("b", "sqlite3"), ("c", "mcap")):
        sent = []
        for number, frame in enumerate(frames):
            stamp_ns = START_NS + number * FRAME_NS
            sent += [image("/cam/image_raw", stamp_ns, frame), text("/note", stamp_ns + 2_000_000, f"{name} {number}")]
        (tmp_path / "drives").mkdir(exist_ok=True)
        write_bag(tmp_path / "drives" / name, sent, storage)
    return tmp_path / "drives"


def messages(bag: Path) -> Messages:
    with open_recording(bag) as source:
        found = [(sent.topic.name, sent.topic.type, sent.time_ns, sent.data) for sent in source.messages()]
        assert source.notes == []
    return found


def plain(source: Path, output: Path, options: BagOptions | None = None) -> Messages:
    """What ``derain_bag`` gives."""
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, source, output, options)
    return messages(output)


@pytest.fixture
def run(tmp_path: Path, drives: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FleetReport]:
    """``run(faults, **fleet)``: a fleet over ``drives`` to ``out``, on workers of this process."""

    def derain(faults: dict[str, list[Outcome]] | None = None, options: BagOptions | None = None, **fleet: Any) -> Any:
        monkeypatch.setattr("sapnet.fleet.schedule.BACKOFF_S", 0.01)
        monkeypatch.setattr("sapnet.fleet.run.connected", lambda address, cpus: nullcontext())
        monkeypatch.setattr("sapnet.fleet.run.RayPool", lambda *arguments: OwnPool(2, faults))
        out = tmp_path / "out"
        return derain_fleet(plan_bags([str(drives)], out), out, FAKE, options, FleetOptions(**fleet))

    return derain


def test_every_recording_is_derained_as_it_is_alone(
    tmp_path: Path, drives: Path, run: Callable[..., FleetReport]
) -> None:
    report = run()
    assert [(Path(row.input).name, row.state, row.frames) for row in report.rows] == [
        (name, "done", 12) for name in "abc"
    ]
    for name in "abc":
        assert messages(tmp_path / "out" / name) == plain(drives / name, tmp_path / "alone" / name)


def test_the_ledger_and_the_summary_name_every_recording_once(tmp_path: Path, run: Callable[..., FleetReport]) -> None:
    report = run()
    rows = [json.loads(line) for line in (tmp_path / "out/ledger.jsonl").read_text().splitlines()]
    assert sorted(Path(row["input"]).name for row in rows) == ["a", "b", "c"]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["bags"], summary["done"], summary["failed"], summary["frames"]) == (3, 3, 0, 36)
    assert [row["input"] for row in summary["rows"]] == [row.input for row in report.rows]


def test_what_is_whole_is_kept_and_only_the_rest_is_done(tmp_path: Path, run: Callable[..., FleetReport]) -> None:
    run()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mcap")}
    shutil.rmtree(tmp_path / "out/b")
    report = run()
    assert [row.state for row in report.rows] == ["kept", "done", "kept"]
    assert [row.frames for row in report.rows] == [12, 12, 12]
    assert report.frames == 12
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mcap")} == before


def test_what_a_killed_run_did_not_enter_is_entered(tmp_path: Path, run: Callable[..., FleetReport]) -> None:
    run()
    ledger = tmp_path / "out/ledger.jsonl"
    whole = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(whole[:2]) + whole[2][:40])
    assert [row.state for row in run().rows] == ["kept"] * 3
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [row["state"] for row in rows] == ["done", "done", "kept"]
    assert rows[2]["frames"] == 12
    run()
    assert len(ledger.read_text().splitlines()) == 3


def test_chunks_give_what_the_whole_gives(tmp_path: Path, drives: Path, run: Callable[..., FleetReport]) -> None:
    report = run(chunk_s=0.123)
    assert [(row.state, row.chunks, row.frames, row.messages) for row in report.rows] == [("done", 4, 12, 48)] * 3
    for name in "abc":
        assert messages(tmp_path / "out" / name) == plain(drives / name, tmp_path / "alone" / name)
        made = json.loads((tmp_path / "out" / name / "sapnet_report.json").read_text())
        alone = json.loads((tmp_path / "alone" / name / "sapnet_report.json").read_text())
        assert made["cameras"][0]["times_ns"] == alone["cameras"][0]["times_ns"]
        assert made["output"] == str(tmp_path / "out" / name)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".chunks", ".partial")]


def test_what_was_derained_in_chunks_is_taken_for_what_the_whole_would_be(
    tmp_path: Path, drives: Path, run: Callable[..., FleetReport]
) -> None:
    """By ``sapnet bag --resume --report``, to make a page of it."""
    run(chunk_s=0.123)
    with Derainer(backend="fake") as derainer:
        assert derain_bag(derainer, drives / "a", tmp_path / "out/a", resume=True).frames == 12


def test_a_worker_that_died_after_it_had_joined_the_chunks_is_no_harm(
    tmp_path: Path, drives: Path, run: Callable[..., FleetReport]
) -> None:
    """Killed when the output had its name, before the chunks were gone."""
    run(chunk_s=0.123)
    bag = Bag(drives / "a", tmp_path / "out/a", 1)
    (tmp_path / "out/a.chunks/000000").mkdir(parents=True)
    outcome = Worker(FAKE, 1).work(Task(JOIN, bag, bag.output, BagOptions(), chunks=4))
    assert (outcome.error, outcome.frames, outcome.messages) == ("", 12, 48)
    assert not (tmp_path / "out/a.chunks").exists()


def test_chunks_end_where_the_recording_does(tmp_path: Path) -> None:
    """Also where a division in floating point would have one more begin there."""
    sent = [text("/note", START_NS, "first"), text("/note", START_NS + 1_099_999_999, "last")]
    source = write_bag(tmp_path / "drive", sent)
    task = Task(PROBE, Bag(source, tmp_path / "out", 1), tmp_path / "out", BagOptions(), chunk_s=0.1)
    assert Worker(FAKE, 1).work(task).cuts == tuple(round(0.1 * number, 1) for number in range(11))


def test_the_limits_of_chunks_meet_at_any_length(tmp_path: Path) -> None:
    times = [START_NS + number * 1_000_000 for number in range(20)]
    sent = [image("/cam/image_raw", times[0] - 1_000_000, smooth_frames(1)[0])]
    source = write_bag(tmp_path / "dense", sent + [text("/note", ns, str(ns)) for ns in times])
    out = tmp_path / "out"
    for chunk_s in (0.001, 0.007):
        bag = Bag(source, out / f"{chunk_s}", 1)
        plan = Schedule([bag], BagOptions(), chunk_s, 1)
        out.mkdir(exist_ok=True)
        (row,) = perform(plan, OwnPool(), [bag], Ledger(out / "ledger.jsonl"))
        assert row.state == "done", row.error
        assert [sent[2] for sent in messages(bag.output) if sent[0] == "/note"] == times


def test_faults_are_survived_and_counted(tmp_path: Path, drives: Path, run: Callable[..., FleetReport]) -> None:
    died = Outcome("the worker died", lost=True)
    report = run({"a": [died], "b": [Outcome("storage is away")], "c": [Outcome("broken")] * 2}, tries=2)
    assert [(row.state, row.attempts, row.error) for row in report.rows] == [
        ("done", 2, "the worker died"),
        ("done", 2, "storage is away"),
        ("failed", 2, "broken"),
    ]
    assert messages(tmp_path / "out/b") == plain(drives / "b", tmp_path / "alone/b")
    assert not (tmp_path / "out/c").exists()


def test_what_was_given_up_is_tried_by_the_next_run(run: Callable[..., FleetReport]) -> None:
    assert [row.state for row in run({"a": [Outcome("broken")]}, tries=1).rows] == ["failed", "done", "done"]
    assert [row.state for row in run(tries=1).rows] == ["done", "kept", "kept"]


def test_a_recording_without_a_camera_fails_alone(
    tmp_path: Path, drives: Path, run: Callable[..., FleetReport]
) -> None:
    write_bag(drives / "d", [text("/note", START_NS, "dry")])
    (drives / "e.mcap").write_bytes(b"no recording")
    rows = run(tries=1).rows
    assert [row.state for row in rows] == ["done", "done", "done", "failed", "failed"]
    assert "no camera in colour" in rows[3].error
    assert "e.mcap" in rows[4].error


def test_what_is_broken_is_derained_anew_at_the_third_attempt(
    tmp_path: Path, drives: Path, run: Callable[..., FleetReport]
) -> None:
    """A journal that no run can go on from, as of a disk that lost it."""
    partial = tmp_path / "out/a.partial"
    partial.mkdir(parents=True)
    (partial / "job.json").write_text("{}")
    rows = run(tries=3).rows
    assert (rows[0].state, rows[0].attempts) == ("done", 3)
    assert "another job" in rows[0].error
    assert messages(tmp_path / "out/a") == plain(drives / "a", tmp_path / "alone/a")


def test_a_foreign_folder_in_the_way_is_left_alone(
    tmp_path: Path, drives: Path, run: Callable[..., FleetReport]
) -> None:
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/mine").write_text("kept")
    rows = run(tries=3).rows
    assert (rows[0].state, rows[1].state) == ("failed", "done")
    assert "exists already" in rows[0].error
    assert (tmp_path / "out/a/mine").read_text() == "kept"


def test_other_options_for_one_folder_are_refused(run: Callable[..., FleetReport]) -> None:
    run()
    with pytest.raises(SapnetError, match="derained otherwise: compressed was '', now 'jpeg'; ask for the same"):
        run(options=BagOptions(compressed="jpeg"))


def test_a_damaged_report_is_a_failed_recording_among_others(tmp_path: Path, run: Callable[..., FleetReport]) -> None:
    run()
    shutil.rmtree(tmp_path / "out/b")
    (tmp_path / "out/a/sapnet_report.json").write_text("")
    (tmp_path / "out/ledger.jsonl").unlink()
    rows = run().rows
    assert [row.state for row in rows] == ["failed", "done", "kept"]
    assert "out/a/sapnet_report.json is damaged (" in rows[0].error


def test_a_damaged_file_of_the_folders_options_is_named(tmp_path: Path, run: Callable[..., FleetReport]) -> None:
    run()
    (tmp_path / "out/fleet.json").write_text("")
    with pytest.raises(SapnetError, match=r"out/fleet\.json is damaged \(.*; name another output, or move it away"):
        run()


def test_two_fleets_in_one_folder_are_refused(tmp_path: Path, run: Callable[..., FleetReport]) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out/.fleet.lock", timeout=0),
        pytest.raises(SapnetError, match="another process is deraining to"),
    ):
        run()


def test_progress_goes_from_nothing_to_all(tmp_path: Path, drives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapnet.fleet.run._WATCH_EVERY_S", 0.0)
    bags = plan_bags([str(drives)], tmp_path / "out")
    seen: list[Standing] = []
    (tmp_path / "out").mkdir()
    perform(Schedule(bags, BagOptions(), 0.2, 1), OwnPool(), bags, Ledger(tmp_path / "out/ledger.jsonl"), seen.append)
    shares = [standing.done / standing.total for standing in seen]
    assert shares == sorted(shares)
    assert len(set(shares)) > 3
    assert shares[-1] == pytest.approx(1.0)
    assert seen[-1].bags == 3


def test_a_ledger_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"state": "done"}\n')
    with pytest.raises(SapnetError, match="line 1 is no row of a ledger"):
        Ledger(tmp_path / "ledger.jsonl")


def test_a_ledger_of_a_later_version_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(Row("/in/a", "/out/a", "done", frames=3))
    line = json.loads((tmp_path / "ledger.jsonl").read_text()) | {"mood": "good"}
    (tmp_path / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    assert Ledger(tmp_path / "ledger.jsonl").newest["/out/a"].frames == 3


def test_a_worker_says_why_it_cannot_work(tmp_path: Path) -> None:
    marker = tmp_path / "fleet.json"
    marker.touch()
    assert Worker(FAKE, 1).start(marker, __version__).error == ""
    assert "expected 0.0" in Worker(FAKE, 1).start(marker, "0.0").error
    absent = {"backend": "torch", "weights": "/absent.safetensors"}
    assert "/absent.safetensors: no such file" in Worker(absent, 1).start(marker, __version__).error


def test_a_worker_that_is_stopped_keeps_what_it_has_done(tmp_path: Path, drives: Path) -> None:
    worker = Worker(FAKE, 1)
    worker.stop()
    task = Schedule([Bag(drives / "a", tmp_path / "a", 1)], BagOptions(), 0.0, 1).take(0.0)
    assert task is not None
    assert worker.work(task).stopped
    assert not (tmp_path / "a").exists()
    assert len((tmp_path / "a.partial/journal.jsonl").read_text().splitlines()) == 1
    assert Worker(FAKE, 1).work(task).error == ""
    assert messages(tmp_path / "a") == plain(drives / "a", tmp_path / "alone")


def test_a_backend_that_fails_is_opened_anew(tmp_path: Path, drives: Path) -> None:
    worker = Worker({"backend": "fake", "options": {"fail_every": 13}}, 1)
    bags = [Bag(drives / name, tmp_path / "out" / name, 1) for name in "abc"]
    outcomes = [worker.work(task) for task in (Schedule([bag], BagOptions(), 0.0, 1).take(0.0) for bag in bags) if task]
    assert ["fake failure" in outcome.error for outcome in outcomes] == [False, True, False]
