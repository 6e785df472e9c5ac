"""Faults of backend and cameras, floods and changes: order holds, and every frame is accounted for.

The rig asserts both of every test here, when it settles.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rig import HEIGHT, WIDTH, Fates, Rig, running
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from live import image, wait_for

pytestmark = pytest.mark.once

ERROR, WARN, OK = b"\x02", b"\x01", b"\x00"

POLICIES = ("passthrough", "drop")

# For tests that look at a camera's status some time after its last frame.
PATIENT = {"diagnostics__silent_after_s": 60.0}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One process for all: each test configures it anew, after the faults of the one before."""
    with running(tmp_path_factory.mktemp("rig") / "node.log") as rig:
        yield rig


def failures(fates: Fates, policy: str) -> int:
    """Frames that failed; asserts that they went the way that ``on_failure`` says."""
    one, other = (fates.passed, fates.dropped) if policy == "passthrough" else (fates.dropped, fates.passed)
    assert not other["failure"]
    return one["failure"]


@pytest.mark.parametrize(
    ("mode", "error", "on_failure"),
    [
        ("nan", "float32", "passthrough"),
        ("wrong_shape", "expected uint8 (1, 48, 64, 3)", "passthrough"),
        ("oom", "memory", "drop"),
    ],
)
def test_a_backend_that_is_broken(rig: Rig, mode: str, error: str, on_failure: str) -> None:
    rig.configure(fake__mode=mode, on_failure=on_failure, **PATIENT)
    rig.stream(40, 1.0)
    fates = rig.one()
    assert failures(fates, on_failure) > 0
    assert fates.derained == 0
    assert fates.values["level"] == ERROR
    assert error in fates.values["message"]


def test_a_backend_that_hangs_once_derains_again(tmp_path: Path) -> None:
    with running(tmp_path / "node.log") as rig:  # for it hangs once in a process
        rig.configure(fake__mode="hang_once", hang_timeout_s=1)
        with rig.streaming(20):
            wait_for(lambda: int(rig.status()["derained"]) > 10, "derained frames")
        fates = rig.one()
        assert failures(fates, "passthrough") > 0
        assert max(fates.latencies_ms) < 5000
        backend = rig.status("backend")
        assert "hangs: no result after 1 s" in fates.values["last_error"] + str(backend["last_error"])
        assert backend["restarts"] == "1"
        first = fates.kinds.index("derained")
        assert "failure" in fates.kinds[:first]
        assert "failure" not in fates.kinds[first:]


@pytest.mark.parametrize(("on_failure", "latency_ms"), [("passthrough", 3000), ("drop", 1000)])
def test_a_backend_slower_than_the_deadline(rig: Rig, on_failure: str, latency_ms: int) -> None:
    rig.configure(
        fake__latency_ms=latency_ms, deadline_ms=400, on_failure=on_failure, diagnostics__missed_in_row=8, **PATIENT
    )
    rig.stream(2, 5.0)
    fates = rig.one()
    assert fates.derained == 0
    missed = fates.passed["deadline"] if on_failure == "passthrough" else fates.dropped["failure"]
    assert missed == int(fates.values["missed_in_row"])
    assert missed + fates.dropped["overload"] == fates.sent
    assert fates.dropped["overload"] <= 2, "but where the machine was late itself"
    assert fates.values["level"] == ERROR
    assert "the backend is slower than the deadline of 400 ms" in fates.values["message"]
    if on_failure == "passthrough":
        assert sorted(fates.latencies_ms)[missed // 2] <= 1000
        assert max(fates.latencies_ms) < 2500, "in time, and not when the late result has come"
        return
    with rig.streaming(10):
        rig.set(deadline_ms=0)
        wait_for(lambda: rig.status()["missed_in_row"] == "0", "a frame that keeps its deadline")
    assert rig.one().derained > 0


@pytest.mark.parametrize(("on_failure", "on_overload"), [POLICIES, POLICIES[::-1]])
def test_a_flood_over_a_failing_backend(rig: Rig, on_failure: str, on_overload: str) -> None:
    rig.configure(fake__latency_ms=30, fake__fail_every=3, on_failure=on_failure, on_overload=on_overload)
    rig.stream(200, 2.0)
    fates = rig.one()
    failed = failures(fates, on_failure)
    assert failed == (fates.derained + failed) // 3 > 0
    overtaken, other = fates.dropped, fates.passed
    if on_overload == "passthrough":
        overtaken, other = other, overtaken
    assert overtaken["overload"] + failed + fates.derained == fates.sent
    assert overtaken["overload"] > fates.sent / 3
    assert not other["overload"]


def test_the_gate_in_dry_weather(rig: Rig) -> None:
    """The fake backend finds no rain, and takes long enough to tell the frames that it has looked at."""
    look_ms = 1000
    gate = {"rain_gate__enabled": True, "rain_gate__hold_s": 0.3, "rain_gate__probe_period_s": 5.0}
    rig.configure(fake__latency_ms=look_ms, on_overload="passthrough", **gate, **PATIENT)
    rng = np.random.default_rng(0)
    with rig.streaming(20):
        status = wait_for(lambda: (s := rig.status())["gate"] == "dry" and s, "dry weather")
    before = len(rig.feeds[""].sent)
    for number in range(60):
        frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        rig.send_message(image(frame, before + number), frame)
        wait_for(lambda n=before + number: len(rig.feeds[""].outputs["frame_status"]) > n, "its status")
    fates = rig.one()
    assert fates.out == fates.sent
    assert set(fates.kinds[before:]) == {"dry"}
    assert sum(latency_ms >= look_ms for latency_ms in fates.latencies_ms[before:]) < 20
    status = rig.status()
    assert (status["gate"], status["level"]) == ("dry", OK)
    assert float(status["rain_score"]) == 0.0
    rig.set(rain_gate__enabled=False)
    rig.stream(5, 1.0)
    assert rig.one().kinds[-1] == "derained"
    assert rig.status()["gate"] == "off"


ALL = {"on_overload": "passthrough"}  # so that frames which a busy machine holds up are not lost


def assert_unharmed(fates: Fates) -> None:
    """Every frame of a sound camera came out, and none for a fault."""
    assert fates.out == fates.sent
    assert set(fates.kinds) <= {"derained", "overload"}
    assert "last_error" not in fates.values


def test_a_camera_that_stops_and_starts_again(rig: Rig) -> None:
    rig.configure(("a", "b"), diagnostics__silent_after_s=3.0, **ALL)
    rig.stream(20, 1.0, "a", "b")
    with rig.streaming(20, "b"):
        status = wait_for(lambda: (s := rig.status("a"))["level"] == ERROR and s, "the silence to be told")
        assert status["message"].startswith(f"no frame on {rig.topic('image', 'a')} for ")
        assert float(status["silent_s"]) > 3.0
        assert rig.status("b")["level"] == OK
        rig.peer.destroy_publisher(rig.feeds["a"].publisher)
        wait_for(lambda: rig.peer.node.count_publishers(rig.topic("image", "a")) == 0, "the publisher to go")
        assert rig.status("a")["level"] == ERROR
        rig.feeds["a"].publisher = rig.new_publisher("a")
        for _ in range(3):
            rig.send("a")
        wait_for(lambda: rig.status("a")["level"] == OK or rig.send("a"), "the silence to end")
    fates = rig.settle()
    assert fates["a"].out == fates["a"].sent
    assert_unharmed(fates["b"])


def test_a_camera_that_is_replaced_by_a_best_effort_one(rig: Rig) -> None:
    """And back: what offers more than is asked for is heard as well."""
    rig.configure(("a", "b"), **ALL)
    for reliability in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE):
        rig.peer.destroy_publisher(rig.feeds["a"].publisher)
        with rig.streaming(20, "b"):
            rig.feeds["a"].publisher = rig.new_publisher("a", reliability=reliability)
            time.sleep(1.0)  # nothing tells when the node knows the publisher, and best effort waits for nobody
            rig.stream(20, 1.0, "a")
        fates = rig.settle()
        assert fates["a"].values["lost_in_transport"] == "0", "small frames are not lost, however they travel"
        assert_unharmed(fates["b"])
    assert fates["a"].values["best_effort_fallback"] == "true"
    assert fates["b"].values["best_effort_fallback"] == "false"
    assert fates["a"].sent == 60


def test_a_camera_that_changes_in_flight(rig: Rig) -> None:
    """Size, frame_id and encoding; a new size passes through until the backend is ready for it.

    The stamps go back, as those of a bag that is played in a loop: what counts is the order of receipt.
    """
    rig.configure(("a", "b"), **ALL)
    sizes = [(48, 64), (64, 48), (40, 40), (120, 160)]
    for turn in range(24):
        rig.send("b", stamp=5000 + turn * 20 % 100)
        rig.send("a", size=sizes[turn // 4 % 4], frame_id=f"mounted_{turn % 3}", stamp=6000 - turn)
    for encoding, bgr in {
        "rgb8": lambda pixels: pixels[..., ::-1],
        "bgra8": lambda pixels: pixels[..., :3],
        "mono8": lambda pixels: np.repeat(pixels, 3, axis=2),
    }.items():
        shape = (HEIGHT, WIDTH, {"rgb8": 3, "bgra8": 4, "mono8": 1}[encoding])
        for value in (3, 200):
            pixels = np.arange(value, value + np.prod(shape), dtype=np.int64).reshape(shape).astype(np.uint8)
            rig.send_message(image(pixels, len(rig.feeds["a"].sent), encoding, "a"), bgr(pixels), "a")
            rig.send("b")
    fates = rig.settle()
    assert fates["a"].out == fates["a"].sent == 30
    assert set(fates["a"].kinds) <= {"derained", "overload", "building"}
    assert_unharmed(fates["b"])
    came = [(message.height, message.width) for message in rig.feeds["a"].outputs["derained/image"]]
    assert came[:16:4] == sizes


def test_a_camera_that_sends_rubbish(rig: Rig) -> None:
    rig.configure(("a", "b", "c", "d"), max_pixels=100 * 100, **ALL)
    spoil = [
        {"step": 1},
        {"height": HEIGHT + 1},
        {"height": 0},
        {"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1},
        {"encoding": "plasma"},
        {"encoding": ""},
        {"height": 2000, "width": 2000, "step": 6000},
    ]
    with rig.streaming(20, "b", "c", "d"):
        for number in range(70):
            message = image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), number, frame_id="a")
            for name, value in spoil[number % len(spoil)].items():
                setattr(message, name, value)
            rig.send_message(message, None, "a")
        wait_for(lambda: rig.status("a")["dropped"] == "70", "the rubbish to be counted")
        assert rig.status("a")["level"] == ERROR
        rig.send("a")
    fates = rig.settle()
    assert fates["a"].dropped == {"invalid": 50, "unsupported": 20}
    assert fates["a"].out == 1
    for name in ("b", "c", "d"):
        assert_unharmed(fates[name])


def test_camera_info_that_does_not_fit_the_frames_is_told(rig: Rig) -> None:
    rig.configure(("a", "b"), **ALL)
    infos = {name: rig.peer.publisher(CameraInfo, rig.topic("camera_info", name)) for name in ("a", "b")}

    def publish(name: str, frame_id: str, height: int = HEIGHT, width: int = WIDTH) -> None:
        infos[name].publish(CameraInfo(header=Header(frame_id=frame_id), height=height, width=width))

    both = "camera_info has size 480x640, the frame's is 48x64 and frame_id 'other', the frame's is 'a'"
    publish("b", "b")
    for level, message, described in ((WARN, both, ("other", 480, 640)), (OK, "deraining", ("a",))):
        publish("a", *described)
        with rig.streaming(10, "a", "b"):
            wait_for(lambda: rig.status("a").items() >= {"level": level, "message": message}.items(), message)  # noqa: B023
        assert rig.status("b")["message"] == "deraining"
    for fates in rig.settle().values():
        assert_unharmed(fates)


CHANGES: list[tuple[dict[str, Any], str]] = [  # with the reason that frames have then for passing through
    ({"mask_threshold": 200, "mask_mode": "soft"}, ""),
    ({"deadline_ms": 5000}, ""),
    ({"stages": 3}, ""),
    ({"on_overload": "drop", "on_failure": "drop"}, ""),
    ({"on_overload": "passthrough", "on_failure": "passthrough"}, ""),
    ({"batch_wait_ms": 60}, ""),
    ({"batch_wait_ms": 0}, ""),
    ({"rain_gate.enabled": True, "rain_gate.hold_s": 0.0, "rain_gate.probe_period_s": 0.0}, "dry"),
    ({"rain_gate.on_threshold": 0.9, "rain_gate.off_threshold": 0.8}, "dry"),
    ({"rain_gate.enabled": False}, ""),
    ({"enabled": False, "hang_timeout_s": 3}, "disabled"),
    ({"enabled": True, "stages": 0, "deadline_ms": 0}, ""),
]


def test_parameters_that_change_while_frames_come(rig: Rig) -> None:
    rig.configure(("a", "b"), fake__latency_ms=5, **ALL)
    told = [feed.outputs["frame_status"] for feed in rig.feeds.values()]

    def all_say(reason: str, counts: list[int]) -> bool:
        """Whether a frame of each camera came out for this reason, after so many earlier ones."""
        since = [statuses[count:] for statuses, count in zip(told, counts, strict=True)]
        return all(reason in [message.status[0].values[0].value for message in messages] for messages in since)

    with rig.streaming(60, "a", "b"):
        for change, reason in 2 * CHANGES:
            rig.set(**change)
            before = list(map(len, told))
            wait_for(lambda: all_say(reason, before), f"frames after {change}")  # noqa: B023
    for fates in rig.settle().values():
        assert fates.dropped.keys() <= {"overload"}
        assert fates.derained > 0
        assert {"dry", "disabled"} <= fates.passed.keys()
        assert "last_error" not in fates.values
    rig.send("a")
    assert rig.settle()["a"].kinds[-1] == "derained"
    assert rig.status("backend")["stages"] == "4"


FROZEN = """
import rclpy, sys
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("frozen")
node.create_subscription(Image, sys.argv[1], lambda message: None, 5)
rclpy.spin(node)
"""


def test_subscribers_that_never_read_stall_nothing(rig: Rig) -> None:
    """One that overwrites what it has not read, one that keeps it, and a process that stands still.

    Frame by frame, so that a busy machine takes longer for each and none waits behind others.
    """
    rig.configure(**ALL)
    topic, size = rig.topic("derained/image"), (480, 640)
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
        outputs = rig.feeds[""].outputs.values()
        for number in range(1, 61):  # of 1.2 MB each, which fills the node's segment
            rig.send(size=size)
            wait_for(lambda n=number: all(len(messages) > n for messages in outputs), f"frame {number}")
        fates = rig.one()
    finally:
        frozen.kill()
        frozen.wait()
        deaf.destroy_node()
        rclpy.shutdown(context=context)
    assert fates.out == fates.sent
    latencies_ms = sorted(fates.latencies_ms)
    assert latencies_ms[15] < 100, "a writer that waits for a reader takes about that long for every frame"
    assert latencies_ms[-1] < 5000


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
            feed.check_order()
