"""``sapnet bag``: what is asked for, what is said, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader

from bag_builders import camera, drive, split_bag, write_bag
from sapnet.cli import main

CAMERA = "/cam/image_raw"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_bag(tmp_path / "drive", drive(5))


def bag(*arguments: object) -> int:
    return main(["bag", *map(str, arguments), "--backend", "fake"])


def topics(path: Path) -> dict[str, int]:
    with Reader(path) as reader:
        return {connection.topic: connection.msgcount for connection in reader.connections}


def test_it_says_what_was_done(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bag(source, "-o", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    first, last = out.splitlines()
    assert first == f"{CAMERA}: 5 of 5 frames derained -> /cam/derained/image, /cam/streak_mask/image"
    assert last.startswith("20 messages, 5 frames derained in ")
    assert last.endswith(f", fake fp32): {tmp_path / 'out'}")
    assert not err
    assert topics(tmp_path / "out") == {CAMERA: 5, "/log": 5, "/cam/derained/image": 5, "/cam/streak_mask/image": 5}


def test_a_page_and_json_can_be_had_later(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bag(source, "-o", tmp_path / "out") == 0
    before = topics(tmp_path / "out")
    capsys.readouterr()
    assert bag(source, "-o", tmp_path / "out", "--resume", "--report", tmp_path / "page.html", "--json") == 0
    assert topics(tmp_path / "out") == before
    assert CAMERA in (tmp_path / "page.html").read_text()
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {"frames": 5, "messages": 20, "output": str(tmp_path / "out"), "notes": []}.items() <= report.items()
    (seen,) = report["cameras"]
    assert {"topic": CAMERA, "derained_frames": 5, "rain_score": 0.0}.items() <= seen.items()
    assert report["network"]["backend"] == "fake"


def test_a_recording_that_can_be_read_in_part_exits_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = camera(5)
    cut = split_bag(tmp_path / "cut", [frames[:3], frames[3:]])
    (cut / "cut_1.mcap").unlink()
    assert bag(cut, "-o", tmp_path / "out") == 3
    assert topics(tmp_path / "out")[CAMERA] == 3
    warning, verdict = capsys.readouterr().err.splitlines()
    assert warning == "sapnet: warning: cut_1.mcap of the recording is missing"
    assert verdict == f"sapnet: only a part of {cut} could be read; {tmp_path / 'out'} holds that part"
