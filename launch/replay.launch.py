"""Plays a recording into derain_node under simulated time, and records what the node gives out.

`ros2 bag play` and `ros2 bag record` do it where they are installed, and our own player and recorder elsewhere, in
lockstep, and for what ros2 bag cannot read. The launch ends when the recording is played. `sapnet replay` does the same
without launch, in a ROS domain of its own, and says what became of the frames.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError
from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, LogInfo, Shutdown, TimerAction
from launch.events.process import ProcessExited
from launch.substitutions import SubstitutionFailure
from launch_ros.substitutions import ExecutableInPackage

from sapnet_ros import launching
from sapnet_ros.starting import json_file

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
READY = "derain_node/ready"
CLOCK_HZ = "40"
# What the node still gives out when ros2 bag play has ended.
REST_S = 2.0


def generate_launch_description() -> LaunchDescription:
    """All arguments, and the processes of a replay."""
    return launching.describe(ARGUMENTS, start, rate="1.0", player="auto")


def start(context: LaunchContext, given: Mapping[str, str]) -> Sequence[Any]:
    """The node, the recorder, and the player once they are ready. Raises ValueError."""
    lockstep = launching.switch(given, "lockstep")
    pace = ["--rate", given["rate"], *(["--loop"] if launching.switch(given, "loop") else [])]
    output = Path(given["output"]).expanduser() if given["output"] else None
    if output is not None and output.exists():
        raise ValueError(f"output:={given['output']} exists already")
    bag = str(Path(given["bag"]).expanduser())
    plan = make_plan(context, bag, given["image"], lockstep, output is not None)
    all_given = dict.fromkeys(launching.ARGUMENTS, "") | {name: given[name] for name in NODE_ARGUMENTS}
    remaps = [(old, new) for old, new in plan["remaps"]]
    sizes = {"warmup_sizes": plan["warmup_sizes"]}
    node = launching.derain_node(context, all_given, remaps, plan["parameters"], sizes)
    recorded = [] if output is None else [str(output)]
    if not choose_ros2bag(given, plan["ros2bag_reads_it"], lockstep):
        player = process("bag_publisher", bag, *pace, *plan["bag_publisher"], on_exit=end)
        recorder = [process("bag_recorder", *recorded, *plan["bag_recorder"])] if recorded or lockstep else []
        return [*node, *recorder, player]
    # Reliable cameras: best effort loses large frames.
    reliable = {"reliability": "reliable", "history": "keep_last", "depth": 10}
    profiles = json_file(dict.fromkeys(plan["cameras"], reliable))
    words = ["--clock", CLOCK_HZ, *pace, "--qos-profile-overrides-path", profiles, "--topics", *plan["played"]]
    player = ros2("bag", "play", bag, *words, on_exit=end)
    words = ["-o", *recorded, "--storage", "mcap", "--use-sim-time", "--topics", *plan["recorded"]]
    recorder = [ros2("bag", "record", *words)] if recorded else []
    latched = ["--qos-durability", "transient_local", "--qos-reliability", "reliable"]
    words = ["--once", "--filter", "m.data", *latched, READY, "std_msgs/msg/Bool"]
    return [*node, *recorder, ros2("topic", "echo", *words, on_exit=[player])]


def make_plan(context: LaunchContext, bag: str, images: str, lockstep: bool, recorder: bool) -> dict[str, Any]:
    """What the node, the player and the recorder are given, as ``sapnet replay --plan`` prints it. Raises ValueError.

    That command runs with the interpreter that the package was built with; the one of launch may lack what it takes to
    read a recording.
    """
    try:
        sapnet = ExecutableInPackage("sapnet", "sapnet_ros").perform(context)
    except (PackageNotFoundError, SubstitutionFailure) as err:
        raise ValueError(f"{err}; build the package with colcon and source install/setup.bash") from err
    command = [sapnet, "replay", bag, "--plan"]
    command += [word for name in images.split(",") if name.strip() for word in ("--topic", name.strip())]
    command += ["--lockstep"] if lockstep else []
    command += ["--output", "recording"] if recorder else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip().removeprefix("sapnet: error: "))
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def choose_ros2bag(given: Mapping[str, str], can_read: bool, lockstep: bool) -> bool:
    """Whether ros2 bag plays and records. Raises ValueError where it is asked for and cannot."""
    choice = given["player"] or "auto"
    if choice not in ("auto", "ros2bag", "sapnet"):
        raise ValueError(f"player:={choice} must be auto, ros2bag or sapnet")
    obstacles = {
        "ros2bag is not installed": shutil.which("ros2") is None or importlib.util.find_spec("ros2bag") is None,
        "it has no lockstep": lockstep,
        "it cannot read this recording": not can_read,
    }
    missing = [obstacle for obstacle, stands in obstacles.items() if stands]
    if choice == "ros2bag" and missing:
        raise ValueError(f"player:=ros2bag cannot be used: {' and '.join(missing)}")
    return choice != "sapnet" and not missing


def ros2(command: str, verb: str, *words: str, **options: Any) -> ExecuteProcess:
    """A command of the ros2 command line as a process."""
    return ExecuteProcess(
        cmd=["ros2", command, verb, *words], name=f"ros2_{command}_{verb}", output="screen", **options
    )


def process(name: str, *words: str, **options: Any) -> ExecuteProcess:
    """An executable of this package as a process, with the interpreter that the package was built with."""
    return ExecuteProcess(cmd=[ExecutableInPackage(name, "sapnet_ros"), *words], name=name, output="screen", **options)


def end(event: ProcessExited, context: LaunchContext) -> Sequence[Any]:
    """Ends the launch when all is played: as a failure where the player failed."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"the player ended with exit status {event.returncode}")
    done = [LogInfo(msg="the recording is played"), Shutdown(reason="the recording is played")]
    return [TimerAction(period=REST_S, actions=done)]
