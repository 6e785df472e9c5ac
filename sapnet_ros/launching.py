"""What the launch files of derain_node share: arguments, and the action made from them.

An empty argument is not passed on, so that the params_file, and then the node's default, decides; a given one
overrides the file. The node configures and activates itself, so a plain Node action is enough: with
autostart:=false the transitions are for ``ros2 lifecycle`` or a lifecycle manager.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sapnet.images.topics import DERAINED, STREAK_MASK
from sapnet_ros.starting import ABOVE, BELOW, parameter_file, profile_environment

ARGUMENTS = {
    "name": "Name of the node.",
    "namespace": "Namespace of the node and its relative topics.",
    "params_file": "File of parameters, keyed '/**:'; config/derain.yaml lists them all.",
    "image": "Topic of the camera's image; image/compressed and camera_info beside it follow.",
    "camera_info": "Topic of the camera_info, where it is not beside the image.",
    "derained": "Topic of the derained image; its /compressed and the camera_info beside it follow.",
    "streak_mask": "Topic of the streak mask.",
    "image_transport": "raw or compressed.",
    "weights": "Preset with shipped weights, or path of a checkpoint.",
    "backend": "Backend: auto, tensorrt, torch, openvino or fake.",
    "use_sim_time": "true: the node's clock follows /clock.",
    "autostart": "false: leave the node unconfigured.",
    "build_only": "true: build the TensorRT engines for warmup_sizes and exit, without deraining.",
    "fastdds_profile": "auto: config/fastdds.xml, unless you have your own or use another RMW; off; or a path.",
    "respawn": "true: restart the node 2 s after it has ended.",
    "log_level": "debug, info, warn, error or fatal.",
}
DEFAULTS = {"fastdds_profile": "auto"}
TOPICS = {
    "image": "image",
    "camera_info": "camera_info",
    "derained": DERAINED.name,
    "streak_mask": STREAK_MASK.name,
}
TEXT_PARAMETERS = ("image_transport", "weights", "backend")
SWITCH_PARAMETERS = ("use_sim_time", "autostart")
RESPAWN_DELAY_S = 2.0

Remaps = Sequence[tuple[str, str]]
Start = Callable[[LaunchContext, Mapping[str, str]], Sequence[Any]]


def describe(arguments: Mapping[str, str], start: Start, **defaults: str) -> LaunchDescription:
    """A launch description of all arguments, name to description, and of what ``start`` returns for their values.

    defaults: of arguments that are not empty by default. A ValueError of ``start`` ends the launch with its text before
    any process is started.
    """

    def perform(context: LaunchContext) -> Sequence[Any]:
        return start(context, {name: LaunchConfiguration(name).perform(context) for name in arguments})

    declared = [
        DeclareLaunchArgument(name, default_value=(DEFAULTS | defaults).get(name, ""), description=description)
        for name, description in arguments.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=perform)])


def remaps(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Remap rules for the topics of one camera that are given as arguments."""
    return [(topic, given[argument]) for argument, topic in TOPICS.items() if given[argument]]


def derain_node(
    context: LaunchContext,
    given: Mapping[str, str],
    remappings: Remaps,
    values: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[Node | LogInfo]:
    """The node's action, and one line on the Fast DDS profile. Raises ValueError for an invalid argument.

    values: further parameters, which override the params_file. defaults: parameters that the params_file overrides.
    """
    build_only = switch(given, "build_only")
    environment, line = profile_environment(given["fastdds_profile"], context.environment)
    node = Node(
        package="sapnet_ros",
        executable="derain_node",
        name=given["name"] or None,
        namespace=given["namespace"] or None,
        parameters=[*([parameter_file(BELOW, defaults)] if defaults else []), *parameter_files(given, values or {})],
        remappings=list(remappings),
        arguments=["--build-only"] if build_only else None,
        ros_arguments=["--log-level", given["log_level"]] if given["log_level"] else None,
        additional_env=environment,
        respawn=switch(given, "respawn") and not build_only,
        respawn_delay=RESPAWN_DELAY_S,
        on_exit=[Shutdown(reason="the engines are built, or cannot be built")] if build_only else None,
        output="screen",
    )
    return [LogInfo(msg=line), node]


def parameter_files(given: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    """The params_file, and after it one of ``values`` and the parameters given as arguments."""
    files = [existing_file(given, "params_file")] if given["params_file"] else []
    overrides = dict(values)
    overrides |= {name: given[name] for name in TEXT_PARAMETERS if given[name]}
    overrides |= {name: switch(given, name) for name in SWITCH_PARAMETERS if given[name]}
    return [*files, parameter_file(ABOVE, overrides)] if overrides else files


def existing_file(given: Mapping[str, str], name: str) -> str:
    """Path of the file that an argument names."""
    path = Path(given[name]).expanduser()
    if not path.is_file():
        raise ValueError(f"{name}:={given[name]} is not a file")
    return str(path)


def switch(given: Mapping[str, str], name: str) -> bool:
    """A boolean argument; empty is false."""
    value = given[name].lower()
    if value not in ("", "true", "false"):
        raise ValueError(f"{name}:={given[name]} must be true or false")
    return value == "true"
