"""Starts derain_node and, behind it, the detector yolo_node of yolo_ros, chained by remapping.

The arguments are those of derain.launch.py and the detector's, which are not set either where they are left empty.
yolo_bringup's own launch file is not used: it installs Python packages at every start. Nothing is installed here; the
detector's packages are found where that launch file, or `uv sync`, has put them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import LogInfo
from launch_ros.actions import Node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from sapnet_ros import launching
from sapnet_ros.starting import ABOVE, parameter_file

DETECTOR_ARGUMENTS = {
    "detector_namespace": "Namespace of the detector: its detections stand under it.",
    "detector_params_file": "File of the detector's parameters, keyed '/**:'.",
    "model": "Path of the detector's weights. Ultralytics downloads a well-known name that is not a file.",
    "device": "Processor of the detector: cpu or cuda:N.",
    "threshold": "Smallest score of a detection.",
}
RELIABLE = 1  # as yolo_ros numbers it; its own default, best effort, loses large frames


def generate_launch_description() -> LaunchDescription:
    """All arguments, and both nodes."""
    return launching.describe(launching.ARGUMENTS | DETECTOR_ARGUMENTS, start, detector_namespace="yolo")


def start(context: LaunchContext, given: Mapping[str, str]) -> Sequence[Any]:
    """Both nodes, or with build_only the first, which then needs no detector."""
    derain_node = launching.derain_node(context, given, launching.remaps(given))
    return derain_node if launching.switch(given, "build_only") else [*derain_node, *detector(context, given)]


def detector(context: LaunchContext, given: Mapping[str, str]) -> Sequence[Any]:
    """The detector's node. Raises ValueError where yolo_ros is not installed."""
    try:
        share = Path(get_package_share_directory("yolo_ros"))
    except PackageNotFoundError as err:
        raise ValueError(
            "yolo_ros is not installed: build https://github.com/mgonzs13/yolo_ros in a workspace and source that, "
            "as docs/integration.md describes; derain.launch.py runs without a detector"
        ) from err
    packages = sorted(share.glob(".venv/lib/python*/site-packages"))
    lines = [] if packages else [LogInfo(msg=f"If yolo_node misses a module: uv sync --project {share}")]
    path = os.pathsep.join([*map(str, packages), context.environment.get("PYTHONPATH", "")]).strip(os.pathsep)
    node = Node(
        package="yolo_ros",
        executable="yolo_node",
        name="yolo_node",
        namespace=given["detector_namespace"] or None,
        parameters=detector_parameters(given),
        remappings=[("image_raw", derained_topic(context, given))],
        # Ultralytics would call pip for what it misses.
        additional_env={"PYTHONPATH": path, "YOLO_AUTOINSTALL": "false"},
        output="screen",
    )
    return [*lines, node]


def detector_parameters(given: Mapping[str, str]) -> list[Any]:
    """What the chain wants, then the detector_params_file, then what is given as arguments: the last one counts."""
    parameters: list[Any] = [{"image_reliability": RELIABLE}]
    if given["detector_params_file"]:
        parameters.append(launching.existing_file(given, "detector_params_file"))
    values: dict[str, Any] = {name: given[name] for name in ("model", "device") if given[name]}
    if given["threshold"]:
        try:
            values["threshold"] = float(given["threshold"])
        except ValueError as err:
            raise ValueError(f"threshold:={given['threshold']} must be a number") from err
    return [*parameters, parameter_file(ABOVE, values)] if values else parameters


def derained_topic(context: LaunchContext, given: Mapping[str, str]) -> str:
    """Full name of the derained image, which the detector has to be given: it runs in another namespace."""
    topic = given["derained"] or launching.TOPICS["derained"]
    if topic.startswith("~"):
        raise ValueError(f"derained:={topic} must not be private here: name it in full")
    pushed = context.launch_configurations.get("ros_namespace")
    namespace = make_namespace_absolute(prefix_namespace(pushed, given["namespace"] or None) or "/")
    return str(prefix_namespace(namespace, topic))
