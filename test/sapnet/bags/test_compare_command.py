"""``sapnet compare``: what it prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bag_builders import START_NS, camera, changed, drive, text, write_bag
from sapnet.cli import main

CAMERA = "/cam/image_raw"


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_bag(tmp_path / "reference", drive(4))


def test_equal_recordings_exit_0(tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_bag(tmp_path / "other", drive(4), "sqlite3")
    assert main(["compare", str(reference), str(other)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines()[-1] == "equal: 2 topics, 8 messages"


def test_a_difference_exits_1_and_is_told(tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = drive(4)
    sent[2] = changed(sent[2], -1)
    other = write_bag(tmp_path / "other", [*sent[:6], sent[7]])  # without the last frame
    assert main(["compare", str(reference), str(other)]) == 1
    lines = capsys.readouterr().out.splitlines()
    [row] = [line.split() for line in lines if line.startswith(CAMERA + " ")]
    assert row == [CAMERA, "Image", "4", "3", "2", "1", "1", "1", "0.01", "%", "87.8", "dB"]
    assert f"{CAMERA}: 1 differ in pixels, 1 only in A; the first at 0.040 s" in lines
    assert lines[-1] == "different: 1 of 2 topics"
    assert main(["compare", str(reference), str(other), "--json"]) == 1
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    seen, said = facts["topics"]
    assert (facts["is_equal"], seen["topic"], seen["is_equal"], said["is_equal"]) == (False, CAMERA, False, True)
    assert (seen["different"], seen["largest_difference"], seen["reasons"]) == (1, 1, {"pixels": 1})
    assert seen["differing_pixels"] == pytest.approx(1 / (3 * 48 * 64))


def test_topics_may_be_chosen_and_ignored(tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(write_bag(tmp_path / "other", camera(4, height=48, width=64)))
    assert main(["compare", str(reference), other]) == 1
    assert "/log: missing in B" in capsys.readouterr().out
    assert main(["compare", str(reference), other, "--ignore", "/log"]) == 0
    assert main(["compare", str(reference), other, "--topic", CAMERA, "--topic", "/cam/*"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal: 1 topic, 4 messages"


def test_log_times_count_on_request(tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = [sent._replace(time_ns=sent.time_ns + 1) for sent in drive(4)]
    other = str(write_bag(tmp_path / "other", later))
    assert main(["compare", str(reference), other]) == 0
    assert main(["compare", str(reference), other, "--times"]) == 1
    assert f"{CAMERA}: 4 differ in log time" in capsys.readouterr().out


def test_names_of_topics_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "/[red]x\x1b[2J\nequal: 1 topic"
    bag = str(write_bag(tmp_path / "bag", [text(hostile, START_NS, "a")]))
    other = str(write_bag(tmp_path / "other", [text(hostile, START_NS, "b")]))
    assert main(["compare", bag, other]) == 1
    output = capsys.readouterr().out
    assert "[red]x" in output
    assert "\x1b" not in output
    assert output.splitlines()[-1] == "different: 1 of 1 topic"
