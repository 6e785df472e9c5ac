"""What deraining a recording never does: lose what it said was done, or remove what is no output of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sapnet.bags.derain
from bag_builders import START_NS, Sent, drive, image, smooth_frames, split_bag, text, write_bag
from sapnet.bags import open_recording
from sapnet.bags.derain import derain_bag
from sapnet.derainer import Derainer


def words(path: Path) -> list[Sent]:
    with open_recording(path) as bag:
        assert bag.notes == []
        return [
            Sent(topic.name, topic.type, ns, data) for topic, ns, data, *_ in bag.messages() if topic.name == "/log"
        ]


@pytest.mark.parametrize("nth", range(1, 12))
def test_an_interrupt_while_a_part_is_made_safe_loses_nothing(
    tmp_path: Path, derainer: Derainer, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    monkeypatch.setattr(sapnet.bags.derain, "PART_BYTES", 20_000)
    source = write_bag(tmp_path / "in", drive(8))
    real, calls = os.fsync, iter(range(1, 10**6))

    def interrupted(handle: int) -> None:
        if next(calls) == nth:
            raise KeyboardInterrupt
        real(handle)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        derain_bag(derainer, source, tmp_path / "out")
    derain_bag(derainer, source, tmp_path / "out", resume=True)
    assert words(tmp_path / "out") == words(source)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_files_that_overlap_in_time_keep_their_order(tmp_path: Path, derainer: Derainer, storage: str) -> None:
    times = [[0, 30, 60], [20, 50], [10, 70]]
    groups = [[text("/log", START_NS + ns, str(ns)) for ns in group] for group in times]
    groups[0].insert(0, image("/cam/image", START_NS - 10**6, smooth_frames(1)[0]))
    source = split_bag(tmp_path / "in", groups, storage)
    derain_bag(derainer, source, tmp_path / "out")
    assert [sent.time_ns - START_NS for sent in words(tmp_path / "out")] == [ns for group in times for ns in group]
