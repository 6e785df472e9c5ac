"""Lifecycle, parameters, and signals, which only a process gets."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from live import LocalNode, NodeProcess, Peer, image, millis, status_values, wait_for
from sapnet.errors import BackendError
from sapnet_ros import derain_node
from sapnet_ros.diagnostics import MAX_CHARACTERS
from sapnet_ros.params import BY_NAME, PARAMETERS

Start = Callable[..., Any]
NUMERIC = [declaration.name for declaration in PARAMETERS if type(declaration.default) in (int, float)]
GRAY = np.full((48, 64, 3), 90, np.uint8)


def test_lifecycle_by_hand(peer: Peer, start_node: Start) -> None:
    start_node(autostart="false", warmup_sizes="[48x64]")
    assert peer.state() == "unconfigured"
    assert peer.status("process")["state"] == "unconfigured", "diagnostics in every state"
    assert peer.change(Transition.TRANSITION_CONFIGURE)
    ready = peer.collect(Bool, "/derain_node/ready", latched=True)
    wait_for(lambda: ready and ready[-1].data, "~/ready before the node is active")
    for _ in range(2):
        assert peer.change(Transition.TRANSITION_ACTIVATE)
        derained = peer.collect(Image, "/derained/image")
        camera = peer.publisher(Image, "/image")
        camera.publish(image(GRAY, 5))
        wait_for(lambda found=derained: found, "a derained frame")
        peer.destroy_publisher(camera)
        assert peer.change(Transition.TRANSITION_DEACTIVATE)
        assert peer.state() == "inactive"
        wait_for(lambda: peer.node.count_subscribers("/image") == 0, "the subscription to go")
    assert peer.change(Transition.TRANSITION_CLEANUP)
    assert peer.state() == "unconfigured"
    wait_for(lambda: not ready[-1].data, "~/ready to be taken back")
    wait_for(lambda: peer.node.count_publishers("/derained/image") == 0, "the publisher to go")
    assert peer.change(Transition.TRANSITION_CONFIGURE)
    assert peer.change(Transition.TRANSITION_ACTIVATE)
    assert peer.state() == "active"


def test_an_impossible_transition_does_not_kill_it_and_a_signal_ends_it_with_code_0(peer: Peer, tmp_path: Path) -> None:
    # Not by the fixture: Jazzy's rclpy raises in the service, and the traceback is in the log.
    node = NodeProcess(log=tmp_path / "node.log", backend="fake", autostart="false")
    assert peer.state() == "unconfigured"
    client = peer.node.create_client(ChangeState, "/derain_node/change_state")
    assert client.wait_for_service(10)
    client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE)))
    time.sleep(0.2)
    assert peer.state() == "unconfigured"
    assert node.stop(signal.SIGINT) == 0


def test_an_error_that_nobody_expects_ends_it_with_code_1(tmp_path: Path) -> None:
    program = "import sys; from sapnet_ros import derain_node, dispatch; dispatch.Dispatch.step = lambda self: 1 / 0;"
    command = [sys.executable, "-c", f"{program} sys.exit(derain_node.main())"]
    node = NodeProcess(command=command, log=tmp_path / "node.log", backend="fake")
    assert node.wait() == 1
    assert "ZeroDivisionError" in node.log.read_text()


def test_a_ros_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(derain_node, "find_spec", lambda name: None if name == "rclpy.event_handler" else object())
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert derain_node.main([]) == 1
    assert "the rclpy of humble is too old: ROS 2 Jazzy or later is needed" in capsys.readouterr().err


def catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1)


def test_a_signal_while_it_starts_ends_it_with_code_0(start_process: Start) -> None:
    node = start_process()
    wait_for(lambda: catches(node.process.pid, signal.SIGTERM), "the handler, which comes before the imports")
    assert node.stop(signal.SIGTERM) == 0


def test_wrong_parameters_fail_configure_until_they_are_mended(peer: Peer, start_node: Start) -> None:
    node = start_node(autostart="false", mask_mode="shiny", jpeg_quality=500, stages="many")
    assert not peer.change(Transition.TRANSITION_CONFIGURE)
    assert peer.state() == "unconfigured"
    assert all(f"parameter '{name}' must be" in node.log for name in ("mask_mode", "jpeg_quality", "stages"))
    told = peer.status("process")
    assert told["level"] == b"\x02"
    assert "got 500" in told["message"]
    assert not peer.set(jpeg_quality=400).successful
    assert peer.set(jpeg_quality=90, mask_mode="soft", stages=2).successful
    assert peer.change(Transition.TRANSITION_CONFIGURE)


def test_every_numeric_parameter_may_be_given_as_1(peer: Peer, start_node: Start) -> None:
    largest = {name: BY_NAME[name].bounds[1] for name in NUMERIC}
    start_node(**{name: min(1, int(largest[name])) for name in NUMERIC if name != "max_pixels"})
    wait_for(lambda: peer.state() == "active", "the node to be active")


def test_live_parameters_change_and_others_are_refused(peer: Peer, start_node: Start) -> None:
    start_node()
    wait_for(lambda: peer.state() == "active", "the node to be active")
    assert peer.set(mask_threshold=20, hang_timeout_s=3).successful
    for name, value, reason in (
        ("mask_threshold", 400, "255"),
        ("on_failure", "explode", "passthrough, drop"),
        ("weights", "sapnet", "next configure"),
        ("warmup_sizes", None, "cannot be deleted"),
    ):
        refused = peer.set(**{name: value})
        assert not refused.successful
        assert reason in refused.reason
    assert peer.set(mask_threshold=30).successful


def test_a_wrong_qos_override_fails_activate_and_leaves_nothing_behind(peer: Peer) -> None:
    # Not by the fixture: rclpy's reason is logged with its traceback.
    name = "qos_overrides./camera_info.subscription.reliability"
    node = LocalNode(peer, "-p", f"{name}:=sometimes", backend="fake", autostart="false")
    assert peer.change(Transition.TRANSITION_CONFIGURE)
    assert not peer.change(Transition.TRANSITION_ACTIVATE)
    assert peer.state() == "unconfigured"
    wait_for(lambda: peer.node.count_subscribers("/image") == 0, "no subscription to be left")
    node.close()


def test_enable_service_switches_deraining(peer: Peer, start_node: Start) -> None:
    start_node(warmup_sizes="[48x64]")
    status = peer.collect(DiagnosticArray, "/frame_status")
    peer.wait_ready()
    camera = peer.publisher(Image, "/image")
    for stamp, enabled in enumerate([True, False, True], 1):
        assert peer.call(SetBool, "/derain_node/enable", data=enabled).success
        camera.publish(image(GRAY, stamp))
        wait_for(lambda n=stamp: len(status) == n, "a frame's status")
    assert [s.status[0].message for s in status] == ["derained", "passed_through", "derained"]
    assert status_values(status[:2], "/derain_node: camera")["reason"] == "disabled"


def test_simulated_time_without_a_clock_stalls_nothing(peer: Peer, start_node: Start) -> None:
    start_node(use_sim_time="true", warmup_sizes="[48x64]")
    derained = peer.collect(Image, "/derained/image")
    peer.wait_ready()
    peer.publisher(Image, "/image").publish(image(GRAY, 42))
    wait_for(lambda: derained, "a derained frame")
    assert millis(derained[0]) == 42
    wait_for(lambda: peer.status()["derained"] == "1", "diagnostics")


def test_missing_weights_pass_frames_through_and_say_so(peer: Peer, start_node: Start, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="loading weights needs torch")
    missing = f"{tmp_path}/{'none/' * 200}none.safetensors"
    start_node(backend="torch", device="cpu", weights=missing, warmup_sizes="[48x64]")
    status = peer.collect(DiagnosticArray, "/frame_status")
    told = wait_for(lambda: (s := peer.status("backend"))["level"] == b"\x02" and s, "an ERROR", 60)
    assert "/none/none" in told["message"]
    assert all(len(text) == MAX_CHARACTERS and text.endswith("...") for text in (told["message"], told["weights"]))
    peer.publisher(Image, "/image").publish(image(GRAY, 1))
    wait_for(lambda: status, "a frame's status")
    assert status_values(status, "/derain_node: camera")["reason"] == "failure"
    assert peer.change(Transition.TRANSITION_DEACTIVATE)
    assert peer.change(Transition.TRANSITION_CLEANUP)
    assert peer.set(weights="sapnet_fast").successful
    assert peer.change(Transition.TRANSITION_CONFIGURE)
    told = wait_for(lambda: (s := peer.status("backend"))["message"] == "ready" and s, "the weights that there are", 60)
    assert told["level"] == b"\x00"


def test_a_network_that_does_not_come_is_an_error(
    peer: Peer, start_node: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()

    def load(*given: Any) -> None:
        ends.wait(60)
        raise BackendError("it never came")

    monkeypatch.setattr("sapnet_ros.node.load_derainer", load)
    start_node(diagnostics__build_silent_after_s=2.0)
    for level, said in ((b"\x01", "loading the network"), (b"\x02", "loading the network: no news for ")):
        told = wait_for(lambda n=level: (s := peer.status("backend"))["level"] == n and s, said)
        assert told["message"].startswith(said)
    ends.set()
    wait_for(lambda: peer.status("backend")["message"] == "it never came", "the reason")


def test_switching_a_camera_off_takes_effect_at_once(peer: Peer, start_node: Start) -> None:
    """A call that does not return wakes nobody, and no other frame comes: only the service can."""
    start_node(cameras="[a, b]", fake__mode="hang", hang_timeout_s=3600.0, warmup_sizes="[48x64]")
    peer.wait_ready()
    statuses = {name: peer.collect(DiagnosticArray, f"/{name}/frame_status") for name in "ab"}
    for name in "ab":
        peer.publisher(Image, f"/{name}/image").publish(image(GRAY, 1))
        wait_for(lambda n=name: peer.status(n)["in_flight"] == "1", f"the frame of {name}")
    assert peer.call(SetBool, "/derain_node/b/enable", data=False).success
    wait_for(lambda: statuses["b"], "the frame that waited")
    assert status_values(statuses["b"], "/derain_node: b")["reason"] == "disabled"
    assert not statuses["a"]
