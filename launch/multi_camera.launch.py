"""Starts one derain_node for several cameras, whose topics follow patterns.

Every camera's topics stand under its name: front/image, front/derained/image. A pattern moves them all:
image:=/sensing/camera/{camera}/image_raw. The other arguments are those of derain.launch.py. One that is left empty is
not set: with cameras:='' the params_file names the cameras, and no pattern can be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch import LaunchContext, LaunchDescription

from sapnet_ros import launching

PLACE = "{camera}"
ARGUMENTS = {
    "cameras": "Names of the cameras: front,rear or [front, rear].",
    **launching.ARGUMENTS,
    "params_file": "File of parameters, keyed '/**:'; config/multi_camera.yaml is an example.",
    "image": f"Topics of the cameras' images, with {PLACE} for the name; what stands beside each image follows.",
    "camera_info": f"Topics of the camera_info, with {PLACE}, where they are not beside the images.",
    "derained": f"Topics of the derained images, with {PLACE}; what stands beside each image follows.",
    "streak_mask": f"Topics of the streak masks, with {PLACE}.",
}


def generate_launch_description() -> LaunchDescription:
    """All arguments, and the node made of those that are given."""
    return launching.describe(ARGUMENTS, start, cameras="front,left,right,rear")


def start(context: LaunchContext, given: Mapping[str, str]) -> Sequence[Any]:
    """The node."""
    cameras = names(given["cameras"])
    values = {"cameras": cameras} if cameras else {}
    return launching.derain_node(context, given, remaps(given, cameras), values)


def names(text: str) -> list[str]:
    """Camera names of a comma-separated list, which may be a YAML one. Whether they are allowed, the node says."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return [name.strip(" '\"") for name in text.split(",")] if text.strip() else []


def remaps(given: Mapping[str, str], cameras: Sequence[str]) -> list[tuple[str, str]]:
    """Rules for every camera, of the patterns that are given."""
    rules = []
    for argument, topic in launching.TOPICS.items():
        pattern = given[argument]
        if not pattern:
            continue
        if not cameras:
            raise ValueError(f"{argument}:={pattern} needs the names of the cameras: give cameras as well")
        if PLACE not in pattern:
            raise ValueError(f"{argument}:={pattern} must contain {PLACE}, or all cameras would share one topic")
        rules += [(f"{camera}/{topic}", pattern.replace(PLACE, camera)) for camera in cameras]
    return rules
