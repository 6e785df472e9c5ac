"""``sapnet bag`` and ``sapnet compare``: what is asked for, what is said, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader

from bag_builders import START_NS, camera, changed, drive, split_bag, text, write_bag
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


def compare(*arguments: object) -> int:
    return main(["compare", *map(str, arguments)])


def test_equal_recordings_exit_0(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(source, write_bag(tmp_path / "other", drive(5), "sqlite3")) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines()[-1] == "equal: 2 topics, 10 messages"


def test_a_difference_exits_1_and_is_told(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = drive(5)
    sent[2] = changed(sent[2], -1)
    other = write_bag(tmp_path / "other", [*sent[:8], sent[9]])  # without the last frame
    assert compare(source, other) == 1
    lines = capsys.readouterr().out.splitlines()
    [row] = [line.split() for line in lines if line.startswith(CAMERA + " ")]
    assert row == [CAMERA, "Image", "5", "4", "3", "1", "1", "1", "0.01", "%", "87.8", "dB"]
    assert f"{CAMERA}: 1 differ in pixels, 1 only in A; the first at 0.040 s" in lines
    assert lines[-1] == "different: 1 of 2 topics"
    assert compare(source, other, "--json") == 1
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    seen, said = facts["topics"]
    assert (facts["is_equal"], seen["topic"], seen["is_equal"], said["is_equal"]) == (False, CAMERA, False, True)
    assert (seen["different"], seen["largest_difference"], seen["reasons"]) == (1, 1, {"pixels": 1})
    assert seen["differing_pixels"] == pytest.approx(1 / (4 * 48 * 64))


def test_topics_may_be_chosen_and_ignored(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_bag(tmp_path / "other", camera(5, height=48, width=64))
    assert compare(source, other) == 1
    assert "/log: missing in B" in capsys.readouterr().out
    assert compare(source, other, "--ignore", "/log") == 0
    assert compare(source, other, "--topic", CAMERA, "--topic", "/cam/*") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal: 1 topic, 5 messages"


def test_log_times_count_on_request(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_bag(tmp_path / "other", [sent._replace(time_ns=sent.time_ns + 1) for sent in drive(5)])
    assert compare(source, other) == 0
    assert compare(source, other, "--times") == 1
    assert f"{CAMERA}: 5 differ in log time" in capsys.readouterr().out


def test_names_of_topics_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "/[red]x\x1b[2J\nequal: 1 topic"
    assert compare(*(write_bag(tmp_path / word, [text(hostile, START_NS, word)]) for word in ("a", "b"))) == 1
    output = capsys.readouterr().out
    assert "[red]x" in output
    assert "\x1b" not in output
    assert output.splitlines()[-1] == "different: 1 of 1 topic"
