"""Launch files, run by launch itself on a colcon build."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sapnet_ros.fastdds import PROFILE_VARIABLES

LAUNCH_FILES = Path(__file__).resolve().parents[2] / "launch"
# What `ros2 launch` does, which is not needed for this.
LAUNCHER = """
import sys
# The system's interpreter, which runs launch on a vehicle, has none of what pip installs.
sys.modules |= dict.fromkeys(("cv2", "filelock", "mcap", "rich", "rosbags", "ruamel", "safetensors", "torch"))
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
    """A launch file of a colcon install, with arguments."""

    def __init__(self, install: Path, launch_file: Path, folder: Path, arguments: tuple[str, ...]) -> None:
        self.log = folder / "launch.txt"
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
        import live

        def find() -> list[int] | None:
            pids = re.findall(r"process started with pid \[(\d+)\]", self.log.read_text())
            return [int(pid) for pid in pids] if len(pids) >= count else None

        pids: list[int] = live.wait_for(find, f"{count} starts of nodes")
        return pids

    def wait(self) -> int:
        """Exit status, once the launch ends by itself."""
        import live

        return self.process.wait(live.TIMEOUT_S)

    def stop(self) -> None:
        """Interrupt all its processes, as Ctrl-C does; launch loses a node whose start it is interrupted in."""
        try:
            if self.process.poll() is None:
                self.node_pids()
                os.killpg(self.process.pid, signal.SIGINT)
                assert self.wait() == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def launch(colcon_install: Path, tmp_path: Path) -> Iterator[Callable[..., LaunchProcess]]:
    """Starts a launch file, the installed one of that name or one by its path; ends it after the test."""
    started: list[LaunchProcess] = []

    def start(*arguments: str, file: str | Path = "derain.launch.py") -> LaunchProcess:
        path = colcon_install / "sapnet_ros/share/sapnet_ros/launch" / file
        started.append(LaunchProcess(colcon_install, path, tmp_path, arguments))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def peer() -> Iterator[Any]:
    """A node of the test's own process."""
    import live

    peer = live.Peer()
    yield peer
    peer.close()


@pytest.fixture(scope="session")
def load_launch_file() -> Callable[[str], ModuleType]:
    """Loads a launch file as a module, for its functions."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name.partition(".")[0], LAUNCH_FILES / name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def given() -> Callable[..., Mapping[str, str]]:
    """Values of all arguments of a launch file: empty but for those that are named."""

    def make(arguments: Mapping[str, str], **values: str) -> Mapping[str, str]:
        return dict.fromkeys(arguments, "") | values

    return make
