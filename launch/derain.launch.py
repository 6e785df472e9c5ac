"""Starts derain_node for one camera. An argument left empty is not set; one that is given overrides the params_file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch import LaunchContext, LaunchDescription

from sapnet_ros import launching


def generate_launch_description() -> LaunchDescription:
    """All arguments, and the node made of those that are given."""
    return launching.describe(launching.ARGUMENTS, start)


def start(context: LaunchContext, given: Mapping[str, str]) -> Sequence[Any]:
    """The node."""
    return launching.derain_node(context, given, launching.remaps(given))
