"""Plays a recording into derain_node under simulated time, and records what the node gives out.

`ros2 bag play` and `ros2 bag record` do it where they are installed, and our own player and recorder elsewhere, in
lockstep, and for what ros2 bag cannot read. The launch ends when the recording is played. `sapnet replay` does the same
without launch, in a ROS domain of its own, and says what became of the frames.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, LogInfo, RegisterEventHandler, Shutdown, TimerAction
from launch.event_handlers import OnProcessExit

from sapnet.bags import Recording, open_recording
from sapnet.errors import BagError
from sapnet.images.topics import RECORDED
from sapnet_ros import launching
from sapnet_ros.replay.plan import Plan, make_plan

NODE_ARGUMENTS = ("params_file", "weights", "backend", "fastdds_profile", "log_level")
ARGUMENTS = {
    "bag": "Recording to play: rosbag2 folder, .mcap or .db3 file, or ROS 1 .bag.",
    "rate": "Times as fast as recorded.",
    "loop": "true: begin again at the end.",
    "output": "rosbag2 folder to record to; empty: nothing is recorded.",
    "lockstep": "true: wait for the node's answer to each frame, so that two replays give equal outputs.",
    "image": "Topics of the cameras' images: /front/image_raw,/rear/image_raw; empty: all in colour.",
    "player": "auto: ros2bag where it is installed and can do it; ros2bag; or sapnet.",
    **{name: launching.ARGUMENTS[name] for name in NODE_ARGUMENTS},
}
DEFAULTS = {"rate": "1.0", "player": "auto", **launching.DEFAULTS}
READY, RECORDER_READY, RECORDER_STATUS = "derain_node/ready", "recorder/ready", "recorder/recorded"
CLOCK_HZ = "40"
# What the node still gives out when ros2 bag play has ended.
REST_S = 2.0

CONFIG = Path(__file__).resolve().parents[1] / "config"


def generate_launch_description() -> LaunchDescription:
    """All arguments, and the processes of a replay."""
    return launching.describe(ARGUMENTS, DEFAULTS, start)


def start(context: LaunchContext, given: Mapping[str, str]) -> Sequence[Any]:
    """The node, the recorder, and the player once they are ready. Raises ValueError."""
    lockstep, loop, rate = launching.switch(given, "lockstep"), launching.switch(given, "loop"), positive(given, "rate")
    images = [name.strip() for name in given["image"].split(",") if name.strip()]
    output = Path(given["output"]).expanduser() if given["output"] else None
    if output is not None and output.exists():
        raise ValueError(f"output:={given['output']} exists already")
    try:
        with open_recording(Path(given["bag"]).expanduser()) as source:
            plan = make_plan(source, images, lockstep=lockstep)
            ros2bag = choose_ros2bag(given, source, lockstep)
            topics = sorted({topic.name for topic in source.topics} - set(plan.outputs) - {"/clock"})
    except BagError as err:
        raise ValueError(str(err)) from err
    all_given = dict.fromkeys(launching.ARGUMENTS, "") | {name: given[name] for name in NODE_ARGUMENTS}
    sizes = {"warmup_sizes": plan.sizes}
    node = launching.derain_node(context, all_given, plan.remaps, CONFIG, plan.parameters, sizes)
    bag = str(source.path)
    if not ros2bag:
        player = our_player(bag, plan, rate, loop, lockstep, output is not None)
        recorder = [our_recorder(plan, output)] if output is not None or lockstep else []
        return [*node, *recorder, player, ends_with(player)]
    player = ros2_player(bag, plan, topics, rate, loop)
    recorder = [ros2_recorder(plan, output)] if output is not None else []
    waiting = module("sapnet_ros.replay.wait_ready", READY)
    begin = RegisterEventHandler(OnProcessExit(target_action=waiting, on_exit=[player]))
    return [*node, *recorder, waiting, begin, ends_with(player)]


def choose_ros2bag(given: Mapping[str, str], source: Recording, lockstep: bool) -> bool:
    """Whether ros2 bag plays and records. Raises ValueError where it is asked for and cannot."""
    choice = given["player"] or "auto"
    if choice not in ("auto", "ros2bag", "sapnet"):
        raise ValueError(f"player:={choice} must be auto, ros2bag or sapnet")
    missing = []
    if shutil.which("ros2") is None or importlib.util.find_spec("ros2bag") is None:
        missing.append("ros2bag is not installed")
    if lockstep:
        missing.append("it knows no lockstep")
    if source.storage == "ros1" or source.notes:
        missing.append("it cannot read this recording")
    if choice == "ros2bag" and missing:
        raise ValueError(f"player:=ros2bag cannot be: {' and '.join(missing)}")
    return choice != "sapnet" and not missing


def our_player(bag: str, plan: Plan, rate: str, loop: bool, lockstep: bool, recorded: bool) -> ExecuteProcess:
    """sapnet_ros.replay.bag_publisher, which waits until all are ready."""
    words = [bag, "--rate", rate, *(["--loop"] if loop else []), *(["--lockstep"] if lockstep else [])]
    words += each("--camera", [camera.source.topic.name for camera in plan.cameras]) + each("--exclude", plan.outputs)
    words += each("--ready", [READY, RECORDER_READY] if recorded or lockstep else [READY])
    statuses = [camera.source.output("frame_status") for camera in plan.cameras]
    return module(
        "sapnet_ros.replay.bag_publisher", *words, *each("--status", [RECORDER_STATUS] if lockstep else statuses)
    )


def our_recorder(plan: Plan, output: Path | None) -> ExecuteProcess:
    """sapnet_ros.replay.recorder."""
    words = [str(output)] if output is not None else []
    for camera in plan.cameras:
        words += ["--camera", camera.name, *([] if camera.has_info else ["--without-info", camera.name])]
    rules = [word for old, new in plan.remaps for word in ("-r", f"{old}:={new}")]
    return module("sapnet_ros.replay.recorder", *words, "--ros-args", *rules, "-p", "use_sim_time:=true")


def ros2_player(bag: str, plan: Plan, topics: Sequence[str], rate: str, loop: bool) -> ExecuteProcess:
    """``ros2 bag play``; the cameras are reliable, for best effort loses large frames."""
    reliable = {"reliability": "reliable", "history": "keep_last", "depth": 10}
    with tempfile.NamedTemporaryFile("w", prefix="replay_", suffix=".yaml", delete=False) as file:
        json.dump({camera.source.topic.name: reliable for camera in plan.cameras}, file)
    words = ["--clock", CLOCK_HZ, "--rate", rate, *(["--loop"] if loop else [])]
    words += ["--qos-profile-overrides-path", file.name, "--topics", *topics]
    return ExecuteProcess(cmd=["ros2", "bag", "play", bag, *words], name="ros2_bag_play", output="screen")


def ros2_recorder(plan: Plan, output: Path) -> ExecuteProcess:
    """``ros2 bag record``."""
    topics = [camera.source.output(output.name) for camera in plan.cameras for output in RECORDED]
    words = ["-o", str(output), "--storage", "mcap", "--use-sim-time", "--topics", *topics]
    return ExecuteProcess(cmd=["ros2", "bag", "record", *words], name="ros2_bag_record", output="screen")


def ends_with(player: ExecuteProcess) -> RegisterEventHandler:
    """Ends the launch when all is played: as a failure where the player failed."""

    def end(event: Any, context: LaunchContext) -> Sequence[Any]:
        if event.returncode and not context.is_shutdown:
            raise RuntimeError(f"the player ended with exit status {event.returncode}")
        done = [LogInfo(msg="the recording is played"), Shutdown(reason="the recording is played")]
        return [TimerAction(period=REST_S, actions=done)]

    return RegisterEventHandler(OnProcessExit(target_action=player, on_exit=end))


def module(name: str, *words: str) -> ExecuteProcess:
    """A module of ours as a process."""
    return ExecuteProcess(cmd=[sys.executable, "-m", name, *words], name=name.rpartition(".")[2], output="screen")


def each(option: str, values: Sequence[str]) -> list[str]:
    """The option before each value."""
    return [word for value in values for word in (option, value)]


def positive(given: Mapping[str, str], name: str) -> str:
    """An argument that is a number above 0, as it was given."""
    try:
        value = float(given[name])
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}:={given[name]} must be a number above 0")
    return given[name]
