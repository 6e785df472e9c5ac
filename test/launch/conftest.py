"""Launch files, run by launch itself on a colcon build."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import eventually

from sapnet_ros.starting import PROFILE_VARIABLES

TIMEOUT_S = 30.0
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
        pids: list[int] = []

        def are_started() -> bool:
            pids[:] = map(int, re.findall(r"process started with pid \[(\d+)\]", self.log.read_text()))
            return len(pids) >= count

        eventually(are_started)
        return pids

    def wait(self) -> int:
        """Exit status, once the launch ends by itself."""
        return self.process.wait(TIMEOUT_S)

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
