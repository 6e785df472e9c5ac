"""Storage that fails while a recording is read is not taken for damage: the run ends, and resumes where it was."""

from __future__ import annotations

import errno
from io import BufferedReader, FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sapnet.bags.derain
from bag_builders import Sent, drive, recorded, ros1_bag, split_bag
from sapnet.bags import open_recording
from sapnet.bags.derain import derain_bag
from sapnet.bags.recording import InputError
from sapnet.bags.report import spread
from sapnet.derainer import Derainer

KINDS = ("mcap", "packed", "ros1")
FRAMES = 20
ENOUGH = 10**9


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The storage of what is in ``tmp_path / "in"``. left: reads until all further ones raise ``err``."""
    storage, plain = SimpleNamespace(left=ENOUGH, err=OSError()), Path.open

    class File(FileIO):
        def readinto(self, buffer: Any, /) -> int | None:
            storage.left -= 1
            if storage.left < 0:
                raise storage.err
            return super().readinto(buffer)

    def opened(path: Path, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        if mode != "rb" or not path.is_relative_to(tmp_path / "in"):
            return plain(path, mode, buffering, *more, **options)
        return BufferedReader(File(path)) if buffering else File(path)

    monkeypatch.setattr(Path, "open", opened)
    return storage


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A recording in two files, or a ROS 1 bag."""
    (tmp_path / "in").mkdir()
    if request.param == "ros1":
        return ros1_bag(tmp_path / "in/drive.bag", drive(FRAMES), chunk_bytes=2**15)
    mode = "file" if request.param == "packed" else "none"
    return split_bag(tmp_path / "in/drive", [drive(FRAMES)[:FRAMES], drive(FRAMES)[FRAMES:]], "mcap", mode)


def messages(path: Path) -> list[Sent]:
    with open_recording(path) as bag:
        read = recorded(bag)
        assert bag.notes == []
    return read


def test_storage_that_fails_at_any_read_ends_the_run_and_costs_nothing(
    storage: Any, source: Path, derainer: Derainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or memory, by turns. What is done is not done again."""
    monkeypatch.setattr(sapnet.bags.derain, "PART_BYTES", 80_000)
    storage.left = ENOUGH
    derain_bag(derainer, source, tmp_path / "whole")
    reads = ENOUGH - storage.left
    failures: list[str] = []
    for number, left in enumerate(spread(reads, 8)):
        storage.left, storage.err = left, MemoryError() if number % 2 else OSError(errno.EIO, "Input/output error")
        with pytest.raises(InputError) as failed:
            derain_bag(derainer, source, tmp_path / "out", resume=True)
        failures.append(str(failed.value))
        assert not (tmp_path / "out").exists()
    storage.left = ENOUGH
    report = derain_bag(derainer, source, tmp_path / "out", resume=True)
    whys = ["Input/output error", "out of memory"] * 4
    assert all(f"{source} cannot be read" in said and why in said for said, why in zip(failures, whys, strict=True))
    assert any(said.endswith("; the work so far is kept: continue with --resume") for said in failures)
    assert (report.frames, len(report.cameras[0].times_ns), report.notes) == (FRAMES, FRAMES, [])
    assert messages(tmp_path / "out") == messages(tmp_path / "whole")
    files = [file.stem for file in (tmp_path / "out").glob("*.mcap*")]
    assert len(files) > 3
    assert {name.split(".")[0] for name in files} == {f"out_{number}" for number in range(len(files))}
