"""A backend that fails, hangs or is too slow, and floods of frames: order holds, and every frame has its fate.

The rig asserts both of every test here, when it settles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rig import HEIGHT, WIDTH, Fates, Rig, running

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
    rig.stream({"": 40}, 1.0)
    fates = rig.one()
    assert failures(fates, on_failure) > 0
    assert fates.derained == 0
    assert fates.values["level"] == ERROR
    assert error in fates.values["message"]


def test_a_backend_that_hangs_every_time(rig: Rig) -> None:
    rig.configure(fake__mode="hang", hang_timeout_s=0.5)
    with rig.streaming(20):

        def restarted() -> dict[str, Any] | None:
            status = rig.status("backend")
            again = int(status["restarts"]) >= 2 and "restarting it" in status["message"]
            return status if again else None

        def failed() -> int:
            return int(rig.status("camera").get("passed_through_failure", 0))

        status = wait_for(restarted, "the second restart")
        wait_for(lambda: failed() >= 10, "frames that go on while the backend is away")
        assert status["level"] == ERROR
        assert "the backend hangs: no result after 0.5 s; restarting it in" in status["message"]
    fates = rig.one()
    assert failures(fates, "passthrough") >= 10
    assert fates.derained == 0
    assert max(fates.latencies_ms) < 5000


def test_a_backend_that_hangs_once_derains_again(tmp_path: Path) -> None:
    with running(tmp_path / "node.log") as rig:  # for it hangs once in a process
        rig.configure(fake__mode="hang_once", hang_timeout_s=2)
        with rig.streaming(20):
            wait_for(lambda: int(rig.status("camera")["derained"]) > 10, "derained frames")
        fates = rig.one()
        assert failures(fates, "passthrough") > 0
        assert "hangs: no result after 2 s" in fates.values["last_error"] + str(rig.status("backend")["last_error"])
        assert rig.status("backend")["restarts"] == "1"
        first = fates.kinds.index("derained")
        assert "failure" in fates.kinds[:first]
        assert "failure" not in fates.kinds[first:]


@pytest.mark.parametrize("on_failure", POLICIES)
def test_a_backend_slower_than_the_deadline(rig: Rig, on_failure: str) -> None:
    rig.configure(
        fake__latency_ms=3000, deadline_ms=400, on_failure=on_failure, diagnostics__missed_in_row=8, **PATIENT
    )
    rig.stream({"": 2}, 5.0)
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
        wait_for(lambda: rig.status("camera")["missed_in_row"] == "0", "a frame that keeps its deadline")
    assert rig.one().derained > 0


@pytest.mark.parametrize(("on_failure", "on_overload"), [POLICIES, POLICIES[::-1]])
def test_a_flood_over_a_failing_backend(rig: Rig, on_failure: str, on_overload: str) -> None:
    rig.configure(fake__latency_ms=30, fake__fail_every=3, on_failure=on_failure, on_overload=on_overload)
    rig.stream({"": 200}, 2.0)
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
        status = wait_for(lambda: (s := rig.status("camera"))["gate"] == "dry" and s, "dry weather")
    before = len(rig.feeds[""].sent)
    for number in range(60):
        frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        rig.send_message(image(frame, before + number), frame)
        wait_for(lambda n=before + number: len(rig.feeds[""].outputs["frame_status"]) > n, "its status")
    fates = rig.one()
    assert fates.out == fates.sent
    assert set(fates.kinds[before:]) == {"dry"}
    assert sum(latency_ms >= look_ms for latency_ms in fates.latencies_ms[before:]) < 20
    status = rig.status("camera")
    assert (status["gate"], status["level"]) == ("dry", OK)
    assert float(status["rain_score"]) == 0.0
    rig.set(rain_gate__enabled=False)
    rig.stream({"": 5}, 1.0)
    assert rig.one().kinds[-1] == "derained"
    assert rig.status("camera")["gate"] == "off"
