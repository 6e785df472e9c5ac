"""config/derain.rviz and config/derain.foxglove.json: their tools can read them, and the node has their topics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

live = pytest.importorskip("live", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

import yaml  # noqa: E402, comes with ROS 2

CONFIG = Path(__file__).resolve().parents[1] / "config"
IMAGES = {"/image", "/derained/image", "/streak_mask/image"}


@pytest.fixture(scope="module")
def topics() -> Iterator[Mapping[str, str]]:
    """Topics of a node in its default place, name to type."""
    peer = live.Peer()
    node = live.LocalNode(peer, backend="fake")
    wanted = IMAGES | {"/rain_score", "/diagnostics"}
    live.wait_for(lambda: wanted <= dict(peer.node.get_topic_names_and_types()).keys(), f"the topics {wanted}")
    yield {name: types[0] for name, types in peer.node.get_topic_names_and_types()}
    node.close()
    peer.close()


@pytest.fixture(scope="module")
def rviz() -> dict[str, Any]:
    return yaml.safe_load((CONFIG / "derain.rviz").read_text())


@pytest.fixture(scope="module")
def foxglove() -> dict[str, Any]:
    return json.loads((CONFIG / "derain.foxglove.json").read_text())


def panels(node: str | Mapping[str, Any]) -> Iterator[str]:
    """The ids in a tree of splits."""
    if isinstance(node, str):
        yield node
        return
    yield from panels(node["first"])
    yield from panels(node["second"])


def test_rviz_shows_the_three_images(rviz: dict[str, Any], topics: Mapping[str, str]) -> None:
    displays = rviz["Visualization Manager"]["Displays"]
    assert {display["Topic"]["Value"] for display in displays} == IMAGES
    for display in displays:
        assert display["Class"] == "rviz_default_plugins/Image"
        assert display["Topic"]["Reliability Policy"] == "Reliable"
        assert topics[display["Topic"]["Value"]] == "sensor_msgs/msg/Image"


def test_rviz_finds_the_windows_of_its_panels(rviz: dict[str, Any]) -> None:
    names = {entry["Name"] for entry in (*rviz["Panels"], *rviz["Visualization Manager"]["Displays"])}
    docks = {name for name, value in rviz["Window Geometry"].items() if isinstance(value, dict)}
    assert docks == names


def test_foxglove_places_every_panel_once(foxglove: dict[str, Any]) -> None:
    placed = list(panels(foxglove["layout"]))
    assert sorted(placed) == sorted(foxglove["configById"])
    kinds = [name.partition("!")[0] for name in placed]
    assert sorted(kinds) == ["DiagnosticStatusPanel", "DiagnosticSummary", "Image", "Image", "Image", "Plot"]


def test_foxglove_names_topics_of_the_node(foxglove: dict[str, Any], topics: Mapping[str, str]) -> None:
    configs = foxglove["configById"].items()
    images = {config["imageMode"]["imageTopic"] for name, config in configs if name.startswith("Image!")}
    assert images == IMAGES
    assert {topics[name] for name in images} == {"sensor_msgs/msg/Image"}
    diagnostics = {config["topicToRender"] for name, config in configs if name.startswith("Diagnostic")}
    assert [topics[name] for name in diagnostics] == ["diagnostic_msgs/msg/DiagnosticArray"]
    ((topic, field),) = [
        path["value"].split(".") for name, config in configs if name.startswith("Plot!") for path in config["paths"]
    ]
    assert (topics[topic], field) == ("std_msgs/msg/Float32", "data")
