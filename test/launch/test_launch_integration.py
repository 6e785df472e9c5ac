"""derain.launch.py, run by launch itself on a colcon build: what its arguments do to the node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("needs_launch")

import live
from sapnet_ros.starting import PROFILE_VARIABLES

Launch = Callable[..., Any]


def test_arguments_reach_the_node(launch: Launch, peer: Any) -> None:
    launch(
        "name:=cleaner",
        "namespace:=front",
        "image:=/camera/image_raw",
        "camera_info:=/calibration/info",
        "derained:=/clean/image",
        "streak_mask:=/clean/mask",
        "image_transport:=compressed",
        "weights:=1e5",
        "backend:=fake",
        "log_level:=warn",
    )
    live.wait_for(lambda: peer.state("/front/cleaner") == "active", "the node to be active")
    names = ("image_transport", "weights", "backend", "use_sim_time", "autostart")
    assert peer.get("/front/cleaner", *names) == ["compressed", "1e5", "fake", False, True]
    inputs = ("/camera/image_raw/compressed", "/calibration/info")
    outputs = ("/clean/image", "/clean/camera_info", "/clean/mask", "/front/frame_status")
    assert [peer.node.count_subscribers(topic) for topic in inputs] == [1, 1]
    assert [peer.node.count_publishers(topic) for topic in outputs] == [1, 1, 1, 1]


def test_an_argument_overrides_the_file_and_an_empty_one_does_not(launch: Launch, peer: Any, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    # The second section is of a later and more specific key, which would win over an override keyed '/**'.
    file.write_text(
        "/**: {ros__parameters: {weights: general, precision: bf16, backend: fake}}\n"
        "/front/derain_node: {ros__parameters: {weights: specific, image_transport: compressed}}\n"
    )
    launch("namespace:=front", f"params_file:={file}", "weights:=given")
    names = ("weights", "image_transport", "precision", "backend", "device")
    assert peer.get("/front/derain_node", *names) == ["given", "compressed", "bf16", "fake", "auto"]


def test_respawn_starts_the_node_again(launch: Launch) -> None:
    launched = launch("backend:=fake", "respawn:=true")
    (first,) = launched.node_pids()
    os.kill(first, signal.SIGKILL)
    assert len(set(launched.node_pids(2))) == 2


@pytest.mark.parametrize("argument", ["autostart:=maybe", "params_file:=missing.yaml", "fastdds_profile:=missing.xml"])
def test_an_argument_of_no_use_ends_the_launch(argument: str, launch: Launch) -> None:
    launched = launch("backend:=fake", argument)
    assert launched.wait() == 1
    assert argument in launched.log.read_text()


def test_build_only_builds_and_ends_the_launch(launch: Launch, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    cache = tmp_path / "cache"
    text = f"/**:\n  ros__parameters: {{cache_dir: {cache}, warmup_sizes: [48x64], fake: {{build_s: 0.2}}}}\n"
    params.write_text(text)
    launched = launch("backend:=fake", "build_only:=true", f"params_file:={params}")
    assert launched.wait() == 0
    assert "all engines are ready" in launched.log.read_text()
    assert len(list(cache.glob("engine-*.entry"))) == 1


def test_the_profile_goes_to_the_nodes_process_only(launch: Launch, colcon_install: Path) -> None:
    launched = launch("backend:=fake")
    profile = colcon_install / "sapnet_ros/share/sapnet_ros/config/fastdds.xml"
    node, launcher = (psutil.Process(pid).environ() for pid in (launched.node_pids()[0], launched.process.pid))
    for variable in PROFILE_VARIABLES:
        assert node[variable] == str(profile)
        assert variable not in launcher
