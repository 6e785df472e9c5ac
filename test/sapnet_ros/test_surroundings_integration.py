"""What happens around the frames: parameters that change, clocks that jump, subscribers that hang, and the end.

The rig asserts, when it settles, that order holds and that every frame has its fate.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rig import OUTPUTS, Rig, running
from sensor_msgs.msg import Image

from live import wait_for

ALL = {"on_overload": "passthrough"}  # so that frames which a busy machine holds up are not lost


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One process for all: each test configures it anew."""
    with running(tmp_path_factory.mktemp("rig") / "node.log") as rig:
        yield rig


CHANGES: list[dict[str, Any]] = [
    {"mask_threshold": 200, "mask_mode": "soft"},
    {"deadline_ms": 500},
    {"stages": 3},
    {"on_overload": "drop", "on_failure": "drop"},
    {"on_overload": "passthrough", "on_failure": "passthrough"},
    {"batch_wait_ms": 60},
    {"batch_wait_ms": 0},
    {"rain_gate.enabled": True, "rain_gate.hold_s": 0.0, "rain_gate.probe_period_s": 0.0},
    {"rain_gate.on_threshold": 0.9, "rain_gate.off_threshold": 0.8},
    {"rain_gate.enabled": False},
    {"enabled": False, "hang_timeout_s": 3},
    {"enabled": True, "stages": 0, "deadline_ms": 0},
]


def test_parameters_that_change_while_frames_come(rig: Rig) -> None:
    rig.configure(("a", "b"), fake__latency_ms=5, **ALL)

    def some_came_out(counts: list[int]) -> bool:
        told = [len(feed.outputs["frame_status"]) for feed in rig.feeds.values()]
        return all(now >= before + 4 for now, before in zip(told, counts, strict=True))

    with rig.streaming(60, "a", "b"):
        for _ in range(2):
            for change in CHANGES:
                rig.set(**change)
                before = [len(feed.outputs["frame_status"]) for feed in rig.feeds.values()]
                wait_for(lambda: some_came_out(before), f"frames after {change}")  # noqa: B023
    for fates in rig.settle().values():
        assert fates.dropped.keys() <= {"overload"}
        assert fates.derained > 0
        assert {"dry", "disabled"} <= fates.passed.keys()
        assert "last_error" not in fates.values
    rig.send("a")
    assert rig.settle()["a"].kinds[-1] == "derained"
    assert rig.status("backend")["stages"] == "4"


def test_one_wrong_value_changes_nothing(rig: Rig) -> None:
    rig.configure(**ALL)
    wrong = {"rain_gate.off_threshold": 0.9}
    with rig.streaming(50):
        before = rig.parameters("enabled", *wrong)
        result = rig.try_to_set(enabled=False, **wrong)
        assert not result.successful
        assert next(iter(wrong)) in result.reason
        assert rig.parameters("enabled", *wrong) == before
        time.sleep(0.1)
    assert not rig.one().passed["disabled"]


def test_stamps_that_go_back(rig: Rig) -> None:
    """A bag that is played in a loop: what counts is the order of receipt."""
    rig.configure(**ALL)
    for _ in range(3):
        for stamp in (*range(5000, 5400, 20), 0, 4999):
            rig.send(stamp=stamp)
    fates = rig.one()
    assert fates.out == fates.sent == 66
    assert fates.derained > 0


FROZEN = """
import rclpy, sys
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("frozen")
node.create_subscription(Image, sys.argv[1], lambda message: None, 5)
rclpy.spin(node)
"""


def test_subscribers_that_never_read_stall_nothing(rig: Rig) -> None:
    """One that overwrites what it has not read, one that is full at some time, and a process that stands still."""
    rig.configure(**ALL)
    topic, size = rig.topic(OUTPUTS[0]), (480, 640)
    context = rclpy.Context()
    rclpy.init(context=context)
    deaf = rclpy.create_node("deaf", context=context)
    for policy in (HistoryPolicy.KEEP_LAST, HistoryPolicy.KEEP_ALL):
        profile = QoSProfile(history=policy, depth=1, reliability=ReliabilityPolicy.RELIABLE)
        deaf.create_subscription(Image, topic, lambda message: None, profile)
    frozen = subprocess.Popen([sys.executable, "-c", FROZEN, topic])
    try:
        wait_for(lambda: rig.peer.node.count_subscribers(topic) == 4, "the deaf subscribers")
        rig.send(size=size)
        wait_for(lambda: rig.status("backend")["build_progress"] == "", "the size to be ready")
        frozen.send_signal(signal.SIGSTOP)
        for _ in range(100):
            rig.send(size=size)
            time.sleep(0.02)
        fates = rig.one()
    finally:
        frozen.kill()
        frozen.wait()
        deaf.destroy_node()
        rclpy.shutdown(context=context)
    assert fates.out == fates.sent
    assert max(fates.latencies_ms) < 5000


def test_a_signal_in_a_flood_ends_it(tmp_path: Path) -> None:
    """Although the backend hangs: its frames are given up. Nobody is left to report the counts."""
    with running(tmp_path / "node.log") as rig:
        rig.configure(("a", "b"), fake__mode="hang")
        process = rig.process.process
        with rig.streaming(200, "a", "b"):
            wait_for(lambda: int(rig.status("a")["received"]) > 50, "the flood")
            began_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert rig.process.wait() == 0
            assert time.monotonic() - began_s < 10.0
        for feed in rig.feeds.values():
            feed.check_order(to_the_end=False)
