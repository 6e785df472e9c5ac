"""config/derain.rviz and config/derain.foxglove.json: their tools can read them, and the node has their topics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from live import ROOT, LocalNode, Peer, wait_for

IMAGES = {"/image", "/derained/image", "/streak_mask/image"}


@pytest.fixture
def topics(peer: Peer, start_node: Callable[..., LocalNode]) -> Mapping[str, str]:
    """Topics of a node in its default place, name to type."""
    start_node()
    wanted = IMAGES | {"/rain_score", "/diagnostics"}
    wait_for(lambda: wanted <= dict(peer.node.get_topic_names_and_types()).keys(), f"the topics {wanted}")
    return {name: types[0] for name, types in peer.node.get_topic_names_and_types()}


def panels(node: str | Mapping[str, Any]) -> Iterator[str]:
    """The ids in a tree of splits."""
    if isinstance(node, str):
        yield node
        return
    yield from panels(node["first"])
    yield from panels(node["second"])


def test_rviz_shows_the_three_images_in_windows_of_its_own(topics: Mapping[str, str]) -> None:
    rviz = yaml.safe_load((ROOT / "config" / "derain.rviz").read_text())
    displays = rviz["Visualization Manager"]["Displays"]
    assert {display["Topic"]["Value"] for display in displays} == IMAGES
    for display in displays:
        assert display["Class"] == "rviz_default_plugins/Image"
        assert display["Topic"]["Reliability Policy"] == "Reliable"
        assert topics[display["Topic"]["Value"]] == "sensor_msgs/msg/Image"
    docks = {name for name, value in rviz["Window Geometry"].items() if isinstance(value, dict)}
    assert docks == {entry["Name"] for entry in (*rviz["Panels"], *displays)}


def test_foxglove_places_every_panel_once_and_names_topics_of_the_node(topics: Mapping[str, str]) -> None:
    foxglove = json.loads((ROOT / "config" / "derain.foxglove.json").read_text())
    configs = foxglove["configById"]
    assert sorted(panels(foxglove["layout"])) == sorted(configs)
    shown = {
        "Image": lambda config: config["imageMode"]["imageTopic"],
        "Plot": lambda config: config["paths"][0]["value"],
        "DiagnosticStatusPanel": lambda config: config["topicToRender"],
        "DiagnosticSummary": lambda config: config["topicToRender"],
    }
    kinds = {name: name.partition("!")[0] for name in configs}
    assert sorted((kinds[name], shown[kinds[name]](config)) for name, config in configs.items()) == [
        ("DiagnosticStatusPanel", "/diagnostics"),
        ("DiagnosticSummary", "/diagnostics"),
        *(("Image", topic) for topic in sorted(IMAGES)),
        ("Plot", "/rain_score.data"),
    ]
    assert {topics[name] for name in IMAGES} == {"sensor_msgs/msg/Image"}
    assert topics["/diagnostics"] == "diagnostic_msgs/msg/DiagnosticArray"
    assert topics["/rain_score"] == "std_msgs/msg/Float32"
