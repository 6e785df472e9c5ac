"""replay.launch.py, run by launch itself on a colcon build: with our player and recorder, and with ros2 bag's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("needs_launch")

from launch import LaunchContext
from needs_launch import given, load

import live
from bag_builders import START_NS, smooth_frames, text
from replay_bags import contents, drive, record
from sapnet_ros import launching

FILE = "replay.launch.py"
Launch = Callable[..., Any]

# Stands in for ros2: notes its arguments; what records goes on until it is interrupted.
ROS2 = """#!/usr/bin/env python3
import os, signal, sys
with open(os.environ["ROS2_CALLS"], "a") as calls:
    print(*sys.argv[1:], file=calls)
if sys.argv[2] == "record":
    signal.sigwait([signal.SIGINT])
"""


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Of a drive that was derained before."""
    earlier = text("/front/derained/image", START_NS, "of an earlier run")
    return record(tmp_path / "bag", [earlier, *drive(["/front"], smooth_frames(6, 48, 64))])


@pytest.fixture
def ros2_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs the stand-in for ros2 bag; the file holds a line for each call."""
    program = tmp_path / "bin" / "ros2"
    program.parent.mkdir()
    program.write_text(ROS2)
    program.chmod(0o755)
    package = tmp_path / "packages" / "ros2bag"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    calls = tmp_path / "calls"
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ROS2_CALLS", str(calls))
    return calls


def test_two_replays_in_lockstep_are_equal(launch: Launch, bag: Path, tmp_path: Path) -> None:
    for name, rate in (("a", "1"), ("b", "8")):
        launched = launch(
            f"bag:={bag}", f"output:={tmp_path / name}", "backend:=fake", "lockstep:=true", f"rate:={rate}", file=FILE
        )
        assert launched.wait() == 0
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    names = ("derained/image", "derained/camera_info", "streak_mask/image", "rain_score")
    assert {topic: len(messages) for topic, messages in first.items()} == {f"/front/{name}": 6 for name in names}


def test_a_player_that_dies_ends_the_launch_as_a_failure(launch: Launch, bag: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    launched = launch(f"bag:={bag}", f"output:={output}", "backend:=fake", "player:=sapnet", "loop:=true", file=FILE)
    node, recorder, player = launched.node_pids(3)
    os.kill(player, signal.SIGKILL)
    assert launched.wait() == 1
    assert "the player ended with exit status -9" in launched.log.read_text()
    for pid in (node, recorder):
        live.wait_for(lambda p=pid: not psutil.pid_exists(p), f"the end of {pid}")


def test_ros2_bag_plays_and_records_where_it_is_installed(
    launch: Launch, bag: Path, tmp_path: Path, ros2_calls: Path
) -> None:
    output = tmp_path / "out"
    launched = launch(f"bag:={bag}", f"output:={output}", "backend:=fake", "rate:=2", "loop:=true", file=FILE)
    assert launched.wait() == 0
    calls = dict.fromkeys(("record", "echo", "play"), "")
    for call in ros2_calls.read_text().splitlines():
        calls[call.split()[1]] = call
    names = ("derained/image", "derained/camera_info", "streak_mask/image", "rain_score")
    outputs = " ".join(f"/front/{name}" for name in names)
    assert calls["record"] == f"bag record -o {output} --storage mcap --use-sim-time --topics {outputs}"
    assert calls["echo"].startswith("topic echo --once --filter m.data ")
    assert calls["echo"].endswith(" derain_node/ready std_msgs/msg/Bool")
    assert calls["play"].startswith(
        f"bag play {bag} --clock 40 --rate 2 --loop --qos-profile-overrides-path {tmp_path}/"
    )
    # What derain_node gives out is not played, too.
    assert calls["play"].endswith(" --topics /front/camera_info /front/image_raw")


def test_a_recording_that_is_missing_ends_the_launch(launch: Launch) -> None:
    launched = launch("bag:=missing", "backend:=fake", file=FILE)
    assert launched.wait() == 1
    assert "missing does not exist" in launched.log.read_text()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"image": "/rear/image_raw"}, "no image topic /rear/image_raw"),
        ({"player": "ros2bag", "lockstep": "true"}, "player:=ros2bag cannot be used: .*it has no lockstep"),
        ({"output": "bag"}, "output:=bag exists already"),
    ],
)
def test_values_of_no_use_are_refused(
    values: dict[str, str], line: str, bag: Path, colcon_install: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bag.parent)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(colcon_install / "sapnet_ros"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(launching.__file__).parents[1]), prepend=os.pathsep)
    launch_file = load(FILE)
    arguments = given(launch_file.ARGUMENTS, **{"bag": str(bag), "rate": "1"} | values)
    with pytest.raises(ValueError, match=line):
        launch_file.start(LaunchContext(), arguments)
