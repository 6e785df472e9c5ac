"""What deraining a recording never does: lose what it said was done, or remove what is no output of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import sapnet.bags.journal
from bag_builders import FRAME_NS, START_NS, Sent, image, smooth_frames, split_bag, text, write_bag
from sapnet.bags import open_recording
from sapnet.bags.derain import derain_bag
from sapnet.bags.options import BagOptions
from sapnet.derainer import Derainer
from sapnet.errors import BagError


@pytest.fixture(scope="module")
def derainer() -> Iterator[Derainer]:
    with Derainer(backend="fake") as made:
        yield made


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    frames = enumerate(smooth_frames(8))
    sent = [(image("/cam/image", t, f), text("/t", t + 2 * 10**6, str(n))) for n, f in frames for t in [stamp(n)]]
    return write_bag(tmp_path / "drives" / "in", [message for pair in sent for message in pair])


def stamp(number: int) -> int:
    return START_NS + number * FRAME_NS


def words(path: Path) -> list[Sent]:
    with open_recording(path) as bag:
        assert bag.notes == []
        return [
            Sent(topic.name, topic.type, ns, data) for topic, ns, data, *_ in bag.messages() if topic.name[:2] == "/t"
        ]


@pytest.mark.parametrize("nth", range(1, 12))
def test_an_interrupt_while_a_part_is_made_safe_loses_nothing(
    tmp_path: Path, drive: Path, derainer: Derainer, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    monkeypatch.setattr(sapnet.bags.journal, "PART_BYTES", 6000)
    real, calls = os.fsync, iter(range(1, 10**6))

    def interrupted(handle: int) -> None:
        if next(calls) == nth:
            raise KeyboardInterrupt
        real(handle)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        derain_bag(derainer, drive, tmp_path / "out")
    derain_bag(derainer, drive, tmp_path / "out", resume=True)
    assert words(tmp_path / "out") == words(drive)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_files_that_overlap_in_time_keep_their_order(tmp_path: Path, derainer: Derainer, storage: str) -> None:
    times = [[0, 30, 60], [20, 50], [10, 70]]
    groups = [[text("/t", START_NS + ns, str(ns)) for ns in group] for group in times]
    groups[0].insert(0, image("/cam/image", START_NS - 10**6, smooth_frames(1)[0]))
    drive = split_bag(tmp_path / "in", groups, storage)
    derain_bag(derainer, drive, tmp_path / "out")
    assert [sent.time_ns - START_NS for sent in words(tmp_path / "out")] == [ns for group in times for ns in group]


@pytest.mark.parametrize("output", ["drives/in", "drives", "drives/../drives/in", "."])
def test_the_input_is_never_replaced(tmp_path: Path, drive: Path, derainer: Derainer, output: str) -> None:
    before = words(drive)
    with pytest.raises(BagError, match=r"is the input, or holds it; name another output"):
        derain_bag(derainer, drive, tmp_path / output, overwrite=True)
    assert words(drive) == before


def test_what_is_no_recording_is_never_replaced(tmp_path: Path, drive: Path, derainer: Derainer) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(BagError, match="is no recording, so it is not replaced; name another output"):
        derain_bag(derainer, drive, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_what_a_killed_replacement_left_behind_is_in_nobodys_way(
    tmp_path: Path, drive: Path, derainer: Derainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the new output had its name, before the old one was gone."""
    derain_bag(derainer, drive, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *args, **options: None)
        derain_bag(derainer, drive, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out.partial" / "replaced").is_dir()
    derain_bag(derainer, drive, tmp_path / "out", BagOptions(stride=2), overwrite=True)
    assert words(tmp_path / "out") == words(drive)
    assert not (tmp_path / "out.partial").exists()
