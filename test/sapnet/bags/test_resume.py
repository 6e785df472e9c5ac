"""Runs that are killed, run out of disk or meet one another: nothing is lost, doubled or left half-written.

Nor do they take memory by the length of a recording.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import time
from io import BufferedReader, FileIO
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bag_worker
import pytest
from filelock import FileLock
from ruamel.yaml import YAML

import sapnet.bags.derain
from bag_builders import Sent, drive, image, read_bag, ros1_bag, smooth_frames, split_bag, write_bag
from sapnet.bags.cameras import BagOptions
from sapnet.bags.derain import derain_bag
from sapnet.bags.recording import InputError
from sapnet.bags.report import spread
from sapnet.derainer import Derainer
from sapnet.errors import BagError, SapnetError

KILLS = 14
WAIT_S = 60.0
FRAMES = 60
ENOUGH = 10**9


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("recorded") / "in", drive(FRAMES))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sent]:
    """What an undisturbed run gives."""
    output = tmp_path_factory.mktemp("derained") / "out"
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, source, output)
    return read_bag(output)


def partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def parts_of(output: Path) -> int:
    """How many parts of an unfinished output are whole."""
    journal = partial(output) / "journal.jsonl"
    return journal.read_text().count("\n") if journal.is_file() else 0


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_killed_at_any_moment_and_gone_on_with(
    storage: str, processes: ForkServerContext, source: Path, whole: list[Sent], tmp_path: Path
) -> None:
    moments = random.Random(7)  # noqa: S311
    kills, rounds = [], 0
    output = tmp_path / "out"
    while len(kills) < KILLS // 2:
        process = processes.Process(target=bag_worker.derain, args=(source, output), kwargs={"storage": storage})
        process.start()
        job, count = partial(output) / "job.json", parts_of(output) + moments.randrange(5)
        while process.is_alive() and not (job.is_file() and parts_of(output) >= count):
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.03))
        process.kill()
        process.join(WAIT_S)
        kills += [parts_of(output)] if process.exitcode == -signal.SIGKILL else []
        if output.exists():
            assert read_bag(output) == whole
            rounds += 1
            output = tmp_path / f"out_{rounds}"
    print(f"{storage}: whole parts when killed: {kills}; {rounds} outputs finished meanwhile")
    bag_worker.derain(source, output, latency_ms=0.0, storage=storage)
    assert read_bag(output) == whole
    assert not partial(output).exists()
    assert len(set(kills)) > 2  # of different moments


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_disk_that_fills_up(
    storage: str, source: Path, whole: list[Sent], derainer: Derainer, tmp_path: Path
) -> None:
    """Stood in for by a limit on the size of files: what is written first fits, a later write fails."""
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bag_worker.PART_BYTES // 2, hard))
    try:
        with pytest.raises(BagError, match=r"out\.partial cannot be written .* the input is untouched, .*--resume"):
            derain_bag(derainer, source, tmp_path / "out", BagOptions(storage=storage))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()
    assert before == {file.name: file.read_bytes() for file in source.iterdir()}
    derain_bag(derainer, source, tmp_path / "out", BagOptions(storage=storage), resume=True)
    assert read_bag(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("name", "content"), [("job.json", b""), ("journal.jsonl", b"\0\0\0\n"), ("journal.jsonl", b"[1, 2, 3]\n")]
)
def test_what_a_loss_of_power_left_of_a_run_is_told_and_can_be_replaced(
    name: str, content: bytes, source: Path, whole: list[Sent], tmp_path: Path
) -> None:
    with Derainer(backend="fake", fake={"fail_every": 5}) as failing, pytest.raises(Exception, match="fake failure"):
        derain_bag(failing, source, tmp_path / "out")
    (partial(tmp_path / "out") / name).write_bytes(content)
    with Derainer(backend="fake") as derainer:
        with pytest.raises(SapnetError, match=rf"{name} is damaged \(.*; start over with --overwrite"):
            derain_bag(derainer, source, tmp_path / "out", resume=True)
        derain_bag(derainer, source, tmp_path / "out", overwrite=True)
    assert read_bag(tmp_path / "out") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_processes_do_not_write_one_output(source: Path, tmp_path: Path) -> None:
    partial(tmp_path / "out").mkdir()
    with (
        FileLock(partial(tmp_path / "out") / "lock"),
        Derainer(backend="fake") as derainer,
        pytest.raises(BagError, match="another process is writing"),
    ):
        derain_bag(derainer, source, tmp_path / "out", resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_written(
    number: signal.Signals, processes: ForkServerContext, source: Path, whole: list[Sent], tmp_path: Path
) -> None:
    """Also of the part that was being written: a Ctrl-C loses nothing that was derained."""
    process = processes.Process(target=bag_worker.derain_until_signal, args=(source, tmp_path / "out", number))
    process.start()
    process.join(WAIT_S)
    assert process.exitcode == 128 + number
    assert not (tmp_path / "out").exists()
    seen: list[int] = []
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, source, tmp_path / "out", resume=True, progress=lambda *counts: seen.append(counts[2]))
    assert read_bag(tmp_path / "out") == whole
    assert seen[-1] == FRAMES - 10


@pytest.mark.parametrize(
    ("part_bytes", "nth"),
    [*((bag_worker.PART_BYTES, nth) for nth in range(1, 12)), *((2**29, nth) for nth in (6, 7, 8))],
)
def test_an_interrupt_while_a_part_is_made_safe_loses_nothing(
    part_bytes: int,
    nth: int,
    source: Path,
    whole: list[Sent],
    derainer: Derainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also after the last part, where no empty one may follow."""
    monkeypatch.setattr(sapnet.bags.derain, "PART_BYTES", part_bytes)
    real, calls = os.fsync, iter(range(1, 10**6))

    def interrupted(handle: int) -> None:
        if next(calls) == nth:
            raise KeyboardInterrupt
        real(handle)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        derain_bag(derainer, source, tmp_path / "out")
    derain_bag(derainer, source, tmp_path / "out", resume=True)
    assert read_bag(tmp_path / "out") == whole
    (metadata,) = YAML(typ="safe").load(tmp_path / "out" / "metadata.yaml").values()
    assert all(file["message_count"] for file in metadata["files"])


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


@pytest.mark.parametrize("kind", ["none", "file", "ros1"])
def test_storage_that_fails_at_any_read_ends_the_run_and_costs_nothing(
    storage: Any, kind: str, derainer: Derainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or memory, by turns. It is not taken for damage, and what is done is not done again."""
    monkeypatch.setattr(sapnet.bags.derain, "PART_BYTES", 80_000)
    sent, source = drive(20), tmp_path / "in/drive.bag"
    if kind == "ros1":
        source.parent.mkdir()
        ros1_bag(source, sent, chunk_bytes=2**15)
    else:
        split_bag(source, [sent[:20], sent[20:]], "mcap", kind)
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
    assert (report.frames, len(report.cameras[0].times_ns), report.notes) == (20, 20, [])
    assert read_bag(tmp_path / "out") == read_bag(tmp_path / "whole")
    files = [file.stem for file in (tmp_path / "out").glob("*.mcap*")]
    assert len(files) > 3
    assert {name.split(".")[0] for name in files} == {f"out_{number}" for number in range(len(files))}


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is told by /proc, as Linux has it")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_recording_of_ten_times_the_length_takes_no_more_memory(
    storage: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    peaks, smooth = {}, smooth_frames(10, 120, 160)
    for count in (100, 1000):
        frames = (image("/cam/image_raw", number, smooth[number % 10]) for number in range(count))
        source = write_bag(tmp_path / f"in{count}", frames, storage)
        with processes.Pool(1) as pool:  # each in a process of its own
            peaks[count] = pool.apply(bag_worker.peak_kb, (source, tmp_path / f"out{count}"))
    print(f"{storage}: peak memory in kB by frames: {peaks}")
    assert peaks[1000] < 1.05 * peaks[100]
