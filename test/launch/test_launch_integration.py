"""derain.launch.py, run by launch itself on a colcon build: what its arguments do to the node."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REASON = (
    "needs launch and launch_ros: source ROS 2, or put the sources of ros2/launch and ros2/launch_ros on PYTHONPATH"
)
pytest.importorskip("launch.actions", reason=REASON)
pytest.importorskip("launch_ros.actions", reason=REASON)
live = pytest.importorskip("live", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from lifecycle_msgs.srv import GetState  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402

LAUNCH_FILE = Path(__file__).resolve().parents[2] / "launch" / "derain.launch.py"
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
# What `ros2 launch` does, which is not needed for this.
LAUNCHER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

arguments = [argument.split(":=", 1) for argument in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


class LaunchProcess:
    """derain.launch.py of a colcon install, with arguments."""

    def __init__(self, install: Path, folder: Path, arguments: tuple[str, ...]) -> None:
        self.log = folder / "launch.txt"
        launch_file = install / "sapnet_ros/share/sapnet_ros/launch/derain.launch.py"
        in_workspace = ["bash", "-c", 'source "$0" && exec "$@"', str(install / "setup.bash")]
        environment = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*in_workspace, sys.executable, "-c", LAUNCHER, str(launch_file), *arguments],
                cwd=folder,
                env=environment | {"ROS_LOG_DIR": str(folder), "TMPDIR": str(folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def node_pids(self, count: int = 1) -> list[int]:
        """Process ids of the nodes started so far; waits for ``count`` of them."""

        def find() -> list[int] | None:
            pids = re.findall(r"process started with pid \[(\d+)\]", self.log.read_text())
            return [int(pid) for pid in pids] if len(pids) >= count else None

        pids: list[int] = live.wait_for(find, f"{count} starts of the node")
        return pids

    def stop(self) -> None:
        """Interrupt all its processes, as Ctrl-C does; launch loses a node whose start it is interrupted in."""
        try:
            if self.process.poll() is None:
                self.node_pids()
                os.killpg(self.process.pid, signal.SIGINT)
                assert self.process.wait(live.TIMEOUT_S) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


Launch = Callable[..., LaunchProcess]


@pytest.fixture
def launch(colcon_install: Path, tmp_path: Path) -> Iterator[Launch]:
    """Starts a launch; ends it after the test."""
    started: list[LaunchProcess] = []

    def start(*arguments: str) -> LaunchProcess:
        started.append(LaunchProcess(colcon_install, tmp_path, arguments))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def peer() -> Iterator[Any]:
    peer = live.Peer()
    yield peer
    peer.close()


@pytest.fixture(scope="module")
def launch_file() -> ModuleType:
    """The launch file as a module, for its functions."""
    spec = importlib.util.spec_from_file_location("derain_launch", LAUNCH_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(peer: Any, node: str, *names: str) -> list[Any]:
    """Values of a node's parameters: strings and booleans."""
    values = peer.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=list(names))).values
    return [value.string_value if value.type == 4 else value.bool_value for value in values]


def wait_for_state(peer: Any, node: str, label: str) -> None:
    def state() -> str:
        return str(peer.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label)

    live.wait_for(lambda: state() == label, f"{node} to be {label}")


def test_arguments_reach_the_node(launch: Launch, peer: Any) -> None:
    launch(
        "name:=cleaner",
        "namespace:=front",
        "image:=/camera/image_raw",
        "camera_info:=/calibration/info",
        "derained:=/clean/image",
        "streak_mask:=/clean/mask",
        "image_transport:=compressed",
        "weights:=1e5",
        "backend:=fake",
        "log_level:=warn",
    )
    wait_for_state(peer, "/front/cleaner", "active")
    names = ("image_transport", "weights", "backend", "use_sim_time", "autostart")
    assert parameters(peer, "/front/cleaner", *names) == ["compressed", "1e5", "fake", False, True]
    inputs = ("/camera/image_raw/compressed", "/calibration/info")
    outputs = ("/clean/image", "/clean/camera_info", "/clean/mask", "/front/frame_status")
    assert [peer.node.count_subscribers(topic) for topic in inputs] == [1, 1]
    assert [peer.node.count_publishers(topic) for topic in outputs] == [1, 1, 1, 1]


def test_an_argument_overrides_the_file_and_an_empty_one_does_not(launch: Launch, peer: Any, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    # The second section is of a later and more specific key, which would win over an override keyed '/**'.
    file.write_text(
        "/**: {ros__parameters: {weights: general, precision: bf16, backend: fake}}\n"
        "/front/derain_node: {ros__parameters: {weights: specific, image_transport: compressed}}\n"
    )
    launch("namespace:=front", f"params_file:={file}", "weights:=given")
    names = ("weights", "image_transport", "precision", "backend", "device")
    assert parameters(peer, "/front/derain_node", *names) == ["given", "compressed", "bf16", "fake", "auto"]


def test_switches_reach_the_node(launch: Launch, peer: Any) -> None:
    launch("backend:=fake", "autostart:=false", "use_sim_time:=True")
    assert parameters(peer, "/derain_node", "autostart", "use_sim_time") == [False, True]
    wait_for_state(peer, "/derain_node", "unconfigured")


def test_respawn_starts_the_node_again(launch: Launch) -> None:
    launched = launch("backend:=fake", "respawn:=true")
    (first,) = launched.node_pids()
    os.kill(first, signal.SIGKILL)
    assert len(set(launched.node_pids(2))) == 2


@pytest.mark.parametrize(
    "argument",
    ["build_only:=maybe", "autostart:=maybe", "params_file:=missing.yaml", "fastdds_profile:=missing.xml"],
)
def test_an_argument_of_no_use_ends_the_launch(argument: str, launch: Launch) -> None:
    launched = launch("backend:=fake", argument)
    assert launched.process.wait(live.TIMEOUT_S) == 1
    assert argument in launched.log.read_text()


def test_build_only_builds_and_ends_the_launch(launch: Launch, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    cache = tmp_path / "cache"
    text = f"/**:\n  ros__parameters: {{cache_dir: {cache}, warmup_sizes: [48x64], fake: {{build_s: 0.2}}}}\n"
    params.write_text(text)
    launched = launch("backend:=fake", "build_only:=true", f"params_file:={params}")
    assert launched.process.wait(live.TIMEOUT_S) == 0
    assert "all engines are ready" in launched.log.read_text()
    assert len(list(cache.glob("engine-*.entry"))) == 1


def test_the_profile_goes_to_the_nodes_process_only(launch: Launch, colcon_install: Path) -> None:
    launched = launch("backend:=fake")
    profile = colcon_install / "sapnet_ros/share/sapnet_ros/config/fastdds.xml"
    node, launcher = (
        Path(f"/proc/{pid}/environ").read_text() for pid in (launched.node_pids()[0], launched.process.pid)
    )
    for variable in PROFILE_VARIABLES:
        assert f"\0{variable}={profile}\0" in node
        assert variable not in launcher


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "fastdds.xml"),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, "fastdds.xml"),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, "rmw_cyclonedds_cpp"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}, "/mine.xml"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}, "/mine.xml"),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, "LARGE_DATA"),
    ],
)
def test_auto_leaves_the_users_choice(variables: dict[str, str], line: str, launch_file: ModuleType) -> None:
    given, said = launch_file.profile_environment("auto", variables)
    assert line in said
    assert set(given) == (set(PROFILE_VARIABLES) if line == "fastdds.xml" else set())


def test_off_and_a_path_win_over_the_users_variables(launch_file: ModuleType, tmp_path: Path) -> None:
    variables = {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    assert launch_file.profile_environment("off", variables)[0] == {}
    profile = tmp_path / "other.xml"
    profile.touch()
    given, _ = launch_file.profile_environment(str(profile), variables)
    assert given == dict.fromkeys(PROFILE_VARIABLES, str(profile))
