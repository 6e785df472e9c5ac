"""What has to be unpacked to be read: one file at a time, and gone when nobody reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rosbags.rosbag2 import CompressionMode

from bag_builders import Sent, split_bag, text
from sapnet.bags import open_recording

ROOT = Path(__file__).resolve().parents[2]
GROUPS = [[text("/words", 10 * group + n, f"{group} {n}") for n in range(5)] for group in range(4)]
KILLED = """
import os, sys
from sapnet.bags import open_recording
with open_recording(sys.argv[1]) as bag:
    next(bag.messages())
    os._exit(0)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture(params=["mcap", "sqlite3"])
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return split_bag(tmp_path / "bag", GROUPS, request.param, CompressionMode.FILE)


def files(scratch: Path) -> list[str]:
    return [path.name for path in scratch.rglob("*") if path.is_file()]


def test_one_file_is_unpacked_at_a_time(bag: Path, scratch: Path) -> None:
    with open_recording(bag) as source:
        seen = []
        for topic, time_ns, data in source.messages():
            (unpacked,) = files(scratch)
            assert unpacked.startswith(f"bag_{time_ns // 10}.")
            seen.append(Sent(topic.name, topic.type, time_ns, data))
        assert seen == [sent for group in GROUPS for sent in group]
        assert [recorded.time_ns for recorded in source.messages(start_ns=12, stop_ns=21)] == [12, 13, 14, 20]
        assert source.notes == []
    assert list(scratch.iterdir()) == []


def test_several_may_read_at_once(bag: Path, scratch: Path) -> None:
    with open_recording(bag) as source:
        ahead, behind = source.messages(), source.messages()
        times = [next(ahead).time_ns for _ in range(12)]
        for recorded in ahead:
            times.append(recorded.time_ns)
            assert next(behind).time_ns == times[len(times) - 13]
        assert times == [sent.time_ns for group in GROUPS for sent in group]


def test_what_a_killed_process_left_is_removed_by_the_next(bag: Path, scratch: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", KILLED, str(bag)], env=environment, check=True)
    (left,) = scratch.iterdir()
    assert files(left)
    with open_recording(bag):  # it might be one that is just made
        assert left.is_dir()
    with open_recording(bag) as held:
        for folder in scratch.iterdir():
            os.utime(folder, (0, 0))
        with open_recording(bag):
            assert not left.exists()
        assert len(list(held.messages())) == 20
    assert list(scratch.iterdir()) == []
