"""multi_camera.launch.py: which cameras and topics its arguments give to the one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("needs_launch")

from needs_launch import given, load

import live

FILE = "multi_camera.launch.py"
CAMERAS = ["front", "left", "right", "rear"]
launch_file = load(FILE)


def test_one_node_serves_four_cameras_on_topics_of_a_pattern(launch: Callable[..., Any], peer: Any) -> None:
    launched = launch(
        "backend:=fake",
        "image:=/sensing/camera/{camera}/image_raw",
        "derained:=/clean/{camera}/image",
        "streak_mask:=/clean/{camera}/mask",
        file=FILE,
    )
    for camera in CAMERAS:
        inputs = (f"/sensing/camera/{camera}/image_raw", f"/sensing/camera/{camera}/camera_info")
        live.wait_for(lambda i=inputs: all(map(peer.node.count_subscribers, i)), f"subscriptions of {inputs}")
        outputs = (f"/clean/{camera}/image", f"/clean/{camera}/mask", f"/clean/{camera}/camera_info")
        assert [peer.node.count_publishers(topic) for topic in (*outputs, f"/{camera}/frame_status")] == [1, 1, 1, 1]
    assert len(launched.node_pids()) == 1
    assert peer.get("/derain_node", "cameras") == [CAMERAS]


def test_without_patterns_the_topics_stand_under_the_cameras(launch: Callable[..., Any], peer: Any) -> None:
    launch("backend:=fake", "cameras:=[near, far]", "namespace:=truck", file=FILE)
    topics = ("/truck/near/image", "/truck/far/image")
    live.wait_for(lambda: all(map(peer.node.count_subscribers, topics)), f"subscriptions of {topics}")
    assert peer.get("/truck/derain_node", "cameras") == [["near", "far"]]


def test_names_come_as_text_or_as_yaml() -> None:
    for text in ("front,rear", "front, rear", "[front, rear]", "['front',\"rear\"]"):
        assert launch_file.names(text) == ["front", "rear"]
    assert launch_file.names("") == launch_file.names("[]") == []


def test_a_pattern_without_a_place_for_the_name_is_refused() -> None:
    values = given(launch_file.ARGUMENTS, image="/camera/image_raw")
    with pytest.raises(ValueError, match=r"image:=/camera/image_raw must contain \{camera\}"):
        launch_file.remaps(values, ["front"])
    with pytest.raises(ValueError, match="needs the names of the cameras"):
        launch_file.remaps(given(launch_file.ARGUMENTS, derained="/{camera}/clean"), [])
