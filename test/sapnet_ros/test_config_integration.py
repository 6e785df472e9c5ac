"""The files in config/ and the code in docs/: they say what the node does, and their readers take them."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from sensor_msgs.msg import CameraInfo, Image

from live import ROOT, LocalNode, NodeProcess, Peer, image, repeating, wait_for
from sapnet_ros.params import BY_NAME, PARAMETERS, documents

DERAIN_YAML = ROOT / "config" / "derain.yaml"
MULTI_CAMERA_YAML = ROOT / "config" / "multi_camera.yaml"
PROFILE = ROOT / "config" / "fastdds.xml"
SEGMENT = 32 * 2**20
SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/integration.md").read_text(), re.MULTILINE | re.DOTALL)
# What the layouts of RViz and Foxglove show, with the types.
IMAGES = {topic: ["sensor_msgs/msg/Image"] for topic in ("/image", "/derained/image", "/streak_mask/image")}
OTHERS = {"/rain_score": ["std_msgs/msg/Float32"], "/diagnostics": ["diagnostic_msgs/msg/DiagnosticArray"]}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def shared_memory(pid: int) -> int:
    """Size of the largest segment of Fast DDS that a process has mapped, in bytes."""
    segment = re.compile(r"^/dev/shm/fast(rtps|dds)_[0-9a-f]{16}$")
    mapped = psutil.Process(pid).memory_maps(grouped=False)
    return max((memory.size for memory in mapped if segment.match(memory.path)), default=0)


def test_generated_files_are_up_to_date_and_give_every_parameter_its_default() -> None:
    """`python -m sapnet_ros.params` makes them."""
    assert {path: path.read_text() for path in (DERAIN_YAML, ROOT / "docs" / "parameters.md")} == documents()
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    ((key, section),) = yaml.safe_load(DERAIN_YAML.read_text()).items()
    assert (key, list(flat(section["ros__parameters"]))) == ("/**", list(defaults.items()))


def test_examples_in_derain_yaml_are_allowed() -> None:
    for parameter in PARAMETERS:
        parameter.check(yaml.safe_load(parameter.example) if parameter.example else parameter.default)


def test_the_node_takes_multi_camera_yaml(peer: Peer, start_node: Callable[..., LocalNode]) -> None:
    (section,) = yaml.safe_load(MULTI_CAMERA_YAML.read_text()).values()
    values = dict(flat(section["ros__parameters"]))
    assert values.keys() <= BY_NAME.keys(), "parameters that the node does not have are ignored"
    launch_file = (ROOT / "launch" / "multi_camera.launch.py").read_text()
    assert f'cameras="{",".join(values["cameras"])}"' in launch_file
    start_node("--params-file", str(MULTI_CAMERA_YAML))
    topics = [f"/{camera}/image" for camera in values["cameras"]]
    wait_for(lambda: all(map(peer.node.count_subscribers, topics)), "subscriptions of four cameras")


def test_the_node_takes_derain_yaml_under_a_namespace(peer: Peer, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        DERAIN_YAML.read_text().replace("backend: auto", "backend: fake").replace("mode: identity", "mode: oom")
    )
    node = LocalNode(peer, "-r", "__ns:=/front", "-r", "__node:=cleaner", "--params-file", str(mine))
    wait_for(lambda: node.node.params, "the node to be configured")
    assert (node.node.params.backend, node.node.params.fake_mode) == ("fake", "oom")
    node.close()


@pytest.mark.parametrize("given", [True, False], ids=["with", "without"])
def test_fast_dds_takes_the_profile(
    given: bool, start_process: Callable[..., NodeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(variable, raising=False)
        if given:
            monkeypatch.setenv(variable, str(PROFILE))
    node = start_process()
    wait_for(lambda: shared_memory(node.process.pid), "shared memory of the node")
    assert (shared_memory(node.process.pid) >= SEGMENT) == given
    assert node.stop() == 0
    assert "XMLPARSER" not in node.log.read_text()


def panels(node: str | Mapping[str, Any]) -> list[str]:
    """The ids in a tree of splits."""
    return [node] if isinstance(node, str) else panels(node["first"]) + panels(node["second"])


def test_the_node_has_the_topics_that_are_shown(peer: Peer, start_node: Callable[..., LocalNode]) -> None:
    start_node()
    shown = IMAGES | OTHERS
    wait_for(lambda: shown.items() <= dict(peer.node.get_topic_names_and_types()).items(), f"the topics {shown}")


def test_rviz_shows_the_three_images_in_windows_of_its_own() -> None:
    rviz = yaml.safe_load((ROOT / "config" / "derain.rviz").read_text())
    displays = rviz["Visualization Manager"]["Displays"]
    assert {display["Topic"]["Value"] for display in displays} == set(IMAGES)
    assert {display["Class"] for display in displays} == {"rviz_default_plugins/Image"}
    assert {display["Topic"]["Reliability Policy"] for display in displays} == {"Reliable"}
    docks = {name for name, value in rviz["Window Geometry"].items() if isinstance(value, dict)}
    assert docks == {entry["Name"] for entry in (*rviz["Panels"], *displays)}


def test_foxglove_places_every_panel_once_and_names_topics_of_the_node() -> None:
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


def test_python_in_the_document_parses() -> None:
    assert SNIPPETS
    for snippet in SNIPPETS:
        compile(snippet, "docs/integration.md", "exec")


def test_frame_mask_and_calibration_come_together(
    peer: Peer, start_process: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    pytest.importorskip(
        "message_filters", reason="needs message_filters: source ROS 2, or put its src on PYTHONPATH; it is pure Python"
    )
    (snippet,) = (text for text in SNIPPETS if "message_filters" in text)
    consumer_file, output = tmp_path / "consumer.py", tmp_path / "output.txt"
    consumer_file.write_text(snippet)
    start_process()
    with output.open("w") as file:
        consumer = subprocess.Popen([sys.executable, str(consumer_file)], stdout=file, stderr=file)
    try:
        images, infos = peer.publisher(Image, "image"), peer.publisher(CameraInfo, "camera_info")
        derained = ("/derained/image", "/streak_mask/image", "/derained/camera_info")
        wait_for(lambda: all(map(peer.node.count_subscribers, derained)), "the consumer to subscribe")
        stamps = itertools.count(1000)

        def send() -> None:
            frame = image(np.zeros((48, 64, 3), np.uint8), next(stamps))
            infos.publish(CameraInfo(header=frame.header, height=48, width=64))
            images.publish(frame)

        with repeating(send, 10):
            first = wait_for(output.read_text, "a frame with its mask and calibration").splitlines()[0]
        stamp, *rest = first.split()
        assert rest == ["bgr8", "mono8", "64x48"]
        assert round(float(stamp) * 1000) in range(1000, next(stamps))
    finally:
        consumer.kill()
        consumer.wait()
