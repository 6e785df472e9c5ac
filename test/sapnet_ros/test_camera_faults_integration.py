"""Cameras that stop, restart, change or send rubbish, side by side with others that must not feel it.

The rig asserts, when it settles, that order holds and that every frame has its fate.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from rig import HEIGHT, WIDTH, Fates, Rig, running
from sensor_msgs.msg import CameraInfo

from live import image, wait_for

pytestmark = pytest.mark.once

ERROR, WARN, OK = b"\x02", b"\x01", b"\x00"
ALL = {"on_overload": "passthrough"}  # so that frames which a busy machine holds up are not lost


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One process for all: each test configures it anew."""
    with running(tmp_path_factory.mktemp("rig") / "node.log") as rig:
        yield rig


def assert_unharmed(fates: Fates) -> None:
    """Every frame of a sound camera came out, and none for a fault."""
    assert fates.out == fates.sent
    assert set(fates.kinds) <= {"derained", "overload"}
    assert "last_error" not in fates.values


def test_a_camera_that_stops_and_starts_again(rig: Rig) -> None:
    rig.configure(("a", "b"), diagnostics__silent_after_s=3.0, **ALL)
    rig.stream({"a": 20, "b": 20}, 1.0)
    with rig.streaming(20, "b"):
        status = wait_for(lambda: (s := rig.status("a"))["level"] == ERROR and s, "the silence to be told")
        assert status["message"].startswith(f"no frame on {rig.topic('image', 'a')} for ")
        assert float(status["silent_s"]) > 3.0
        assert rig.status("b")["level"] == OK
        rig.peer.node.destroy_publisher(rig.feeds["a"].publisher)
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
    for reliable in (True, False, True):
        rig.peer.node.destroy_publisher(rig.feeds["a"].publisher)
        with rig.streaming(20, "b"):
            rig.feeds["a"].publisher = rig.new_publisher("a", reliable=reliable)
            time.sleep(1.0)  # nothing tells when the node knows the publisher, and best effort waits for nobody
            rig.stream({"a": 20}, 1.0)
        fates = rig.settle()
        assert fates["a"].values["lost_in_transport"] == "0", "small frames are not lost, however they travel"
        assert_unharmed(fates["b"])
    assert fates["a"].values["best_effort_fallback"] == "true"
    assert fates["b"].values["best_effort_fallback"] == "false"
    assert fates["a"].sent == 60


def test_a_camera_that_changes_in_flight(rig: Rig) -> None:
    """Size, frame_id and encoding; a new size passes through until the backend is ready for it."""
    rig.configure(("a", "b"), **ALL)
    for turn in range(24):
        rig.send("b")
        size = [(48, 64), (64, 48), (40, 40), (120, 160)][turn // 4 % 4]
        rig.send("a", size=size, frame_id=f"mounted_{turn % 3}")
    for encoding, bgr in {
        "rgb8": lambda pixels: pixels[..., ::-1],
        "bgra8": lambda pixels: pixels[..., :3],
        "mono8": lambda pixels: np.repeat(pixels, 3, axis=2),
    }.items():
        shape = (HEIGHT, WIDTH, {"rgb8": 3, "bgra8": 4, "mono8": 1}[encoding])
        for value in (3, 200):
            pixels = np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(np.uint8) // 2 + np.uint8(
                value // 2
            )
            number = len(rig.feeds["a"].sent)
            rig.send_message(image(pixels, number, encoding, "a"), bgr(pixels), "a")
            rig.send("b")
    fates = rig.settle()
    assert fates["a"].out == fates["a"].sent == 30
    assert set(fates["a"].kinds) <= {"derained", "overload", "building"}
    assert_unharmed(fates["b"])
    sizes = [(message.height, message.width) for message in rig.feeds["a"].outputs["derained/image"]]
    assert sizes[:16:4] == [(48, 64), (64, 48), (40, 40), (120, 160)]


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


RATES = {"a": 40.0, "b": 20.0, "c": 10.0, "d": 5.0}


def test_cameras_of_equal_size_share_batches_and_none_starves(rig: Rig) -> None:
    rig.configure(tuple(RATES), fake__latency_ms=120)  # 8 batches in a second
    rig.stream(RATES, 5.0)
    fates = rig.settle()
    for name, rate in RATES.items():
        assert fates[name].derained >= 0.5 * min(5.0 * rate, 25), f"{name}: {fates[name]}"
        assert fates[name].dropped.keys() <= {"overload"}
    assert fates["a"].dropped["overload"] > fates["a"].sent / 4
    # More than one call can have done for them alone.
    assert sum(f.derained for f in fates.values()) > 1.3 * max(f.derained for f in fates.values())


def test_camera_info_that_does_not_fit_the_frames_is_told(rig: Rig) -> None:
    rig.configure(("a", "b"), **ALL)
    infos = {name: rig.peer.publisher(CameraInfo, rig.topic("camera_info", name)) for name in ("a", "b")}

    def wait_for_status(frame_id: str, size: tuple[int, int], level: bytes, message: str) -> None:
        for name, publisher in infos.items():
            height, width = size if name == "a" else (HEIGHT, WIDTH)
            info = CameraInfo(height=height, width=width)
            info.header.frame_id = frame_id if name == "a" else name
            publisher.publish(info)

        def told() -> bool:
            status = rig.status("a")
            return (status["level"], status["message"]) == (level, message)

        with rig.streaming(10, "a", "b"):
            wait_for(told, message)
        assert rig.status("b")["message"] == "deraining"

    wait_for_status("a", (480, 640), WARN, "camera_info has size 480x640, the frame's is 48x64")
    wait_for_status("other", (HEIGHT, WIDTH), WARN, "camera_info has frame_id 'other', the frame's is 'a'")
    both = "camera_info has size 480x640, the frame's is 48x64 and frame_id 'other', the frame's is 'a'"
    wait_for_status("other", (480, 640), WARN, both)
    wait_for_status("a", (HEIGHT, WIDTH), OK, "deraining")
    for fates in rig.settle().values():
        assert_unharmed(fates)
