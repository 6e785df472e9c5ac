"""What a fleet does next: order, retries, chunks; without workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapnet.bags.options import BagOptions
from sapnet.fleet import Bag, Row
from sapnet.fleet.schedule import DERAIN, JOIN, MAX_NODES_LOST, PROBE, Outcome, Schedule, Task

FAILED = Outcome("the disk is full")
LOST = Outcome("the worker died", lost=True)
NODE_LOST = Outcome("the worker died", lost=True, node_lost=True)


def bag(name: str, size: int = 1) -> Bag:
    return Bag(Path(f"/in/{name}"), Path(f"/out/{name}"), size)


def schedule(*bags: Bag, chunk_s: float = 0.0, tries: int = 3) -> Schedule:
    return Schedule(bags, BagOptions(quality=80), chunk_s, tries)


def take(plan: Schedule, now_s: float = 0.0) -> Task:
    task = plan.take(now_s)
    assert task is not None
    return task


def ended(row: Row | None) -> Row:
    assert row is not None
    return row


def test_the_largest_comes_first() -> None:
    plan = schedule(bag("small", 1), bag("large", 9), bag("middle", 5))
    assert [take(plan).bag.source.name for _ in range(3)] == ["large", "middle", "small"]
    assert plan.take(0.0) is None
    assert not plan.is_done


def test_a_recording_that_is_done_has_its_row() -> None:
    plan = schedule(bag("a", 7))
    row = ended(plan.end(take(plan), Outcome(frames=5, unreadable=1, messages=20, seconds=2.0, node="n"), 1.0))
    assert plan.is_done
    assert (row.state, row.attempts, row.frames, row.unreadable, row.messages) == ("done", 1, 5, 1, 20)
    assert (row.bytes, row.seconds, row.node, row.error) == (7, 2.0, "n", "")
    assert row.started <= row.ended


def test_what_failed_waits_longer_each_time_and_is_given_up() -> None:
    plan = schedule(bag("a"), tries=3)
    assert plan.end(take(plan), FAILED, 0.0) is None
    assert plan.take(0.9) is None
    first = take(plan, 1.1)
    assert not first.anew
    assert plan.end(first, FAILED, 10.0) is None
    assert plan.take(11.9) is None
    second = take(plan, 12.1)
    assert second.anew
    row = ended(plan.end(second, FAILED, 20.0))
    assert (row.state, row.attempts, row.error) == ("failed", 3, "the disk is full")
    assert plan.is_done


def test_others_go_on_while_one_waits() -> None:
    plan = schedule(bag("a", 2), bag("b", 1), tries=1)
    failing, other = take(plan), take(plan)
    assert ended(plan.end(failing, FAILED, 0.0)).state == "failed"
    assert ended(plan.end(other, Outcome(), 0.0)).state == "done"
    assert plan.is_done


def test_a_lost_worker_counts_and_its_task_goes_on_at_once() -> None:
    plan = schedule(bag("a"), tries=2)
    assert plan.end(take(plan), LOST, 0.0) is None
    again = take(plan)
    assert not again.anew
    assert ended(plan.end(again, LOST, 0.0)).state == "failed"


def test_a_lost_node_is_no_fault_of_the_recording() -> None:
    plan = schedule(bag("a"), tries=1)
    for _ in range(MAX_NODES_LOST - 1):
        assert plan.end(take(plan), NODE_LOST, 0.0) is None
    row = ended(plan.end(take(plan), Outcome(frames=1), 0.0))
    assert (row.state, row.attempts) == ("done", MAX_NODES_LOST)


def test_a_recording_that_takes_node_after_node_down_is_given_up() -> None:
    plan = schedule(bag("a"), tries=1)
    for _ in range(MAX_NODES_LOST - 1):
        assert plan.end(take(plan), NODE_LOST, 0.0) is None
    assert ended(plan.end(take(plan), NODE_LOST, 0.0)).state == "failed"


def cut(plan: Schedule, *cuts: float) -> list[Task]:
    probe = take(plan)
    assert (probe.kind, probe.chunk_s) == (PROBE, 10.0)
    assert plan.end(probe, Outcome(cuts=cuts), 0.0) is None
    return [take(plan) for _ in cuts]


def test_chunks_cover_all_time_and_are_joined_at_the_end() -> None:
    plan = schedule(bag("a"), chunk_s=10.0)
    chunks = cut(plan, 0.0, 10.0, 20.0)
    assert [(task.options.start_s, task.options.duration_s) for task in chunks] == [(0, 10), (10, 10), (20, 0)]
    assert all(task.options.quality == 80 and not task.options.latched for task in chunks)
    assert [str(task.output) for task in chunks] == [f"/out/a.chunks/{n:06d}" for n in range(3)]
    assert sum(task.share for task in chunks) == pytest.approx(1.0)
    for task in reversed(chunks):
        assert plan.take(0.0) is None
        assert plan.end(task, Outcome(frames=2, messages=3, seconds=1.0), 0.0) is None
    join = take(plan)
    assert (join.kind, join.chunks, join.output) == (JOIN, 3, Path("/out/a"))
    row = ended(plan.end(join, Outcome(frames=6, messages=9), 0.0))
    assert (row.state, row.chunks, row.frames, row.messages, row.seconds) == ("done", 3, 6, 9, 3.0)


def test_a_recording_of_one_chunk_is_derained_whole() -> None:
    plan = schedule(bag("a"), chunk_s=10.0)
    (task,) = cut(plan, 0.0)
    assert (task.kind, task.output, task.options) == (DERAIN, Path("/out/a"), BagOptions(quality=80))
    assert ended(plan.end(task, Outcome(frames=4), 0.0)).frames == 4


def test_each_chunk_has_its_tries() -> None:
    plan = schedule(bag("a"), chunk_s=10.0, tries=2)
    for task in cut(plan, 0.0, 10.0):
        assert plan.end(task, LOST, 0.0) is None
    for task in (take(plan), take(plan)):
        assert plan.end(task, Outcome(), 0.0) is None
    assert ended(plan.end(take(plan), Outcome(), 0.0)).attempts == 3


def test_a_chunk_that_fails_gives_up_its_recording() -> None:
    plan = schedule(bag("a"), chunk_s=10.0, tries=1)
    first, second, _ = cut(plan, 0.0, 10.0, 20.0)
    assert ended(plan.end(first, FAILED, 0.0)).state == "failed"
    assert plan.end(second, Outcome(), 0.0) is None
    assert plan.take(0.0) is None
    assert plan.is_done
