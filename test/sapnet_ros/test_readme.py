"""The README's parameter table is the parameters."""

from __future__ import annotations

import re
from typing import Any

import pytest

from live import ROOT

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from sapnet_ros.params import PARAMETERS


def shown(default: Any) -> str:
    if default is None:
        return "unset"
    if default == "":
        return "empty"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_the_readme_lists_every_parameter_with_its_default() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.+?) \| (live|configure|read-only) \|", (ROOT / "README.md").read_text(), re.M
    )
    assert rows == [(p.name, shown(p.default), p.changes) for p in PARAMETERS]
