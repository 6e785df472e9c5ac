"""Topics as launch files, drivers and viewers have them: names, types, durability, and who subscribes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.parameter import Parameter, parameter_value_to_python
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Float32

from live import LocalNode, Peer, image, millis, status_values, wait_for
from sapnet_ros import dispatch
from sapnet_ros.qos import latched_profile

Start = Callable[..., LocalNode]
FRAME = np.full((48, 64, 3), 90, np.uint8)
ERROR, WARN, OK = b"\x02", b"\x01", b"\x00"


@pytest.fixture
def stranger() -> Iterator[Peer]:
    """In another DDS participant, for in one a topic has one type."""
    stranger = Peer()
    yield stranger
    stranger.close()


def remaps(**rules: str) -> list[str]:
    """``front_image="/x"`` is the rule for front/image."""
    return [word for name, topic in rules.items() for word in ("-r", f"{name.replace('__', '/')}:={topic}")]


TWO = {"cameras": "[front, rear]"}


@pytest.mark.parametrize(
    ("rules", "params", "named"),
    [
        (
            {"front__derained__image": "/clean/front", "rear__derained__image": "/clean/rear"},
            TWO,
            ("output rear/derained/camera_info", "output front/derained/camera_info", "/clean/camera_info"),
        ),
        (
            {"front__derained__image": "/rear/image", "rear__derained__image": "/front/image"},
            TWO,
            ("output front/derained/image", "input rear/image", "/rear/image"),
        ),
        (
            {"image": "/camera", "derained__image": "/camera"},
            {"image_transport": "compressed", "publish_compressed": "true"},
            ("output derained/image/compressed", "input image", "/camera/compressed"),
        ),
        ({"frame_status": "/diagnostics"}, {}, ("output frame_status", "output /diagnostics", "/diagnostics")),
    ],
)
def test_topics_that_collide_are_refused_with_both_names(
    start_node: Start, rules: dict[str, str], params: dict[str, str], named: tuple[str, ...]
) -> None:
    node = start_node(*remaps(**rules), **params)
    assert node.wait() == 1
    assert all(name in node.log for name in (*named, "remap one")), node.log


def test_cameras_in_one_namespace_keep_the_camera_info_beside_them(peer: Peer, start_node: Start) -> None:
    """Whatever that is worth: derained frames stand beside what came in, and nobody publishes it a second time."""
    rules = remaps(
        front__image="/cam/front",
        rear__image="/cam/rear",
        front__derained__image="/cam/front_clean",
        rear__derained__image="/cam/rear_clean",
    )
    start_node(*rules, **TWO, warmup_sizes="[48x64]")
    peer.wait_ready()
    assert peer.node.count_publishers("/cam/camera_info") == 0
    assert peer.node.count_subscribers("/cam/camera_info") == 2


def dump(peer: Peer, name: str) -> str:
    """What ``ros2 param dump`` writes."""
    names = peer.call(ListParameters, f"{name}/list_parameters").result.names
    values = peer.call(GetParameters, f"{name}/get_parameters", names=names).values
    tree: dict[str, Any] = {}
    for full, value in zip(names, values, strict=True):
        *groups, last = full.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[last] = parameter_value_to_python(value)
    tree.pop("qos_overrides")  # whose names have the namespace
    return yaml.dump({name: {"ros__parameters": tree}})


def test_dumped_parameters_can_be_read_again(peer: Peer, start_node: Start, tmp_path: Path) -> None:
    start_node(cameras="[front]", weights="sapnet")
    wait_for(lambda: peer.node.count_subscribers("/front/image"), "the subscription")
    dumped = dump(peer, "/derain_node").replace("/derain_node:", "/again/derain_node:")
    assert "null" not in dumped
    file = tmp_path / "again.yaml"
    file.write_text(dumped)
    again = LocalNode(peer, "-r", "__ns:=/again", "--params-file", str(file))
    wait_for(lambda: peer.node.count_subscribers("/again/front/image") == 1, "the subscription")
    assert dump(peer, "/again/derain_node") == dumped
    again.close()


def test_null_means_unset(peer: Peer, start_node: Start, tmp_path: Path) -> None:
    file = tmp_path / "null.yaml"
    unset = "cameras: null, warmup_sizes: 'null', cache_dir: null, engine: ''"
    file.write_text(f"/**: {{ros__parameters: {{{unset}}}}}")
    start_node("--params-file", str(file))
    wait_for(lambda: peer.node.count_subscribers("/image"), "the subscription")
    names = ["cameras", "warmup_sizes", "cache_dir", "engine"]
    values = peer.call(GetParameters, "/derain_node/get_parameters", names=names).values
    assert [parameter_value_to_python(value) for value in values] == [[], [], "", ""]
    assert [value.type for value in values[:2]] == [Parameter.Type.STRING_ARRAY.value] * 2


@pytest.mark.parametrize(
    "reduced",
    [
        {"height": 97, "width": 129, "binning_x": 2, "binning_y": 2},
        {"height": 480, "width": 640, "roi": RegionOfInterest(height=96, width=64), "binning_y": 2, "binning_x": 1},
    ],
)
def test_camera_info_with_binning_or_a_region_is_for_the_reduced_image(
    peer: Peer, start_node: Start, reduced: dict[str, Any]
) -> None:
    start_node()
    infos, statuses = peer.collect(CameraInfo, "/derained/camera_info"), peer.collect(DiagnosticArray, "/frame_status")
    message = image(FRAME, 1)
    peer.publisher(CameraInfo, "/camera_info").publish(CameraInfo(header=message.header, **reduced))
    peer.wait_ready()
    peer.publisher(Image, "/image").publish(message)
    wait_for(lambda: infos and statuses, "the frame")
    assert statuses[0].status[0].message == "derained", "its size was made ready by the camera_info"
    assert infos[0] == CameraInfo(header=message.header, **reduced)
    assert peer.status()["level"] == OK


def test_each_frame_gets_its_own_camera_info_and_one_that_does_not_come_is_told(
    peer: Peer, start_node: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the frame, as image_transport's CameraPublisher does; zooming, so that another frame's would be wrong."""
    wait_s = dispatch.INFO_WAIT_S
    monkeypatch.setattr(dispatch, "INFO_WAIT_S", 30.0)  # however busy the machine is
    start_node(enabled="false")
    derained = peer.collect(CameraInfo, "/derained/camera_info")
    camera, driver = peer.publisher(Image, "/image"), peer.publisher(CameraInfo, "/camera_info")

    def send(stamp: int) -> None:
        message = image(FRAME, stamp)
        camera.publish(message)
        driver.publish(CameraInfo(header=message.header, height=48, width=64, distortion_model=f"zoom {stamp}"))

    stamps = itertools.count(1)
    wait_for(lambda: send(next(stamps)) or len(derained) > 1, "both to be heard, and what comes out, too")
    for stamp in range(10001, 10031):
        send(stamp)
        wait_for(lambda n=stamp: millis(derained[-1]) == n, f"frame {stamp}")
    told = [(millis(info), info.distortion_model) for info in derained if millis(info) > 10000]
    assert told == [(stamp, f"zoom {stamp}") for stamp in range(10001, 10031)]
    before = int(peer.status()["late_camera_infos"])
    monkeypatch.setattr(dispatch, "INFO_WAIT_S", wait_s)
    camera.publish(image(FRAME, 10031))
    wait_for(lambda: millis(derained[-1]) == 10031, "the frame without a camera_info")
    assert derained[-1].distortion_model == "zoom 10030"
    wait_for(lambda: int(peer.status()["late_camera_infos"]) == before + 1, "the late camera_info to be told")


def test_nothing_is_run_while_nobody_subscribes(peer: Peer, start_node: Start) -> None:
    start_node(warmup_sizes="[48x64]", lazy="true", on_overload="passthrough")
    peer.wait_ready()
    camera = peer.publisher(Image, "/image")
    for stamp in range(5):
        camera.publish(image(FRAME, stamp))
    wait_for(lambda: peer.status().get("dropped_unwatched") == "5", "five frames that nobody sees")
    values = peer.status()
    assert (values["received"], values["derained"], values["level"]) == ("5", "0", OK)
    assert "unwatched" in values["message"]
    for topic, kind in (("/rain_score", Float32), ("/streak_mask/image", Image), ("/frame_status", DiagnosticArray)):
        messages = peer.collect(kind, topic)
        # Again and again, for nothing tells when the node knows its subscriber.
        wait_for(lambda m=messages: camera.publish(image(FRAME, 10)) or m, f"what belongs on {topic}")
    assert int(peer.status()["derained"]) >= 3


@pytest.mark.parametrize(
    ("name", "topic", "instead"),
    [
        ("image", "/cam/image_raw/compressed", "remap image to /cam/image_raw and set image_transport to compressed"),
        ("image", "/cam/image_raw/theora", "republish theora raw"),
        ("derained/image", "/cam/derained/compressed", "remap derained/image to /cam/derained"),
    ],
)
def test_a_transport_in_the_name_is_told_once_with_what_to_write(
    peer: Peer, start_node: Start, name: str, topic: str, instead: str
) -> None:
    node = start_node("-r", f"{name}:={topic}")
    wait_for(lambda: "deraining" in node.log, "the node to be active")
    warnings = [line for line in node.lines if "names a transport" in line]
    assert [instead in line and topic in line for line in warnings] == [True]


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_topic_of_another_type_is_an_error(peer: Peer, stranger: Peer, start_node: Start, side: str) -> None:
    node = start_node()
    if side == "output":
        stranger.node.create_subscription(CompressedImage, "/derained/image", print, 1)
        topic, wrong = "/derained/image", "sensor_msgs/msg/CompressedImage"
    else:
        stranger.node.create_publisher(Image, "/camera_info", 1)
        topic, wrong = "/camera_info", "sensor_msgs/msg/Image"
    told = wait_for(lambda: (s := peer.status())["level"] == ERROR and s, "the ERROR")
    assert told["message"].startswith(f"{topic} is used with type {wrong}")
    assert sum(told["message"] in line for line in node.lines) == 1


def test_a_latched_camera_info_arrives_and_one_sent_later_too(peer: Peer, start_node: Start) -> None:
    """Sent once, before the node starts; then by a driver that does not latch."""
    latched = peer.node.create_publisher(CameraInfo, "/camera_info", latched_profile())
    latched.publish(CameraInfo(height=48, width=64, distortion_model="latched"))
    start_node()
    peer.wait_ready()
    derained = peer.collect(CameraInfo, "/derained/camera_info")
    camera = peer.publisher(Image, "/image")
    camera.publish(image(FRAME, 1))
    wait_for(lambda: derained, "the frame's camera_info")
    assert derained[-1].distortion_model == "latched"
    driver = peer.publisher(CameraInfo, "/camera_info")
    message = image(FRAME, 2)

    def comes() -> bool:
        driver.publish(CameraInfo(header=message.header, height=48, width=64, distortion_model="not latched"))
        camera.publish(message)
        return bool(derained[-1].distortion_model == "not latched")

    wait_for(comes, "a camera_info that is not latched")


def test_diagnostics_of_several_nodes_do_not_overwrite_each_other(
    peer: Peer, start_node: Start, tmp_path: Path
) -> None:
    """In namespaces, with a file of parameters for all."""
    file = tmp_path / "params.yaml"
    file.write_text("/**: {ros__parameters: {enabled: false}}")
    diagnostics = peer.collect(DiagnosticArray, "/diagnostics", publishers=0)
    for side in ("front", "rear"):
        start_node("-r", f"__ns:=/{side}", "--params-file", str(file))
        peer.publisher(Image, f"/{side}/image").publish(image(FRAME, 1, frame_id=f"{side}_optical"))
    names = {f"/{side}/derain_node: {what}" for side in ("front", "rear") for what in ("camera", "backend", "process")}

    def told() -> dict[str, str]:
        return {status.name: status.hardware_id for message in diagnostics for status in message.status}

    wait_for(lambda: told().keys() == names and told()["/rear/derain_node: camera"] == "rear_optical", "both nodes")
    assert told()["/front/derain_node: camera"] == "front_optical"
    assert status_values(diagnostics, "/front/derain_node: camera")["enabled"] == "false"
