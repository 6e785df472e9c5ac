"""What is decided about frames, in a time of the test's own: deadlines, batches, turns, the gate, hanging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dispatch_bench import LARGE, SMALL, Simulation
from hypothesis import given, settings
from hypothesis import strategies as st

Make = Callable[..., Simulation]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Simulation] = []

    def make(*args: Any, **more: Any) -> Simulation:
        made.append(Simulation(*args, **more))
        return made[-1]

    yield make
    for simulation in made:
        simulation.close()
        assert not simulation.errors


def latencies_s(simulation: Simulation, camera: int = 0) -> list[float]:
    return list(simulation.cameras[f"camera{camera}"].latencies_s)


@settings(max_examples=60)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.003, 0.03]), st.booleans(), st.sampled_from([0.0, 0.05])),
        max_size=40,
    ),
    deadline_ms=st.sampled_from([0, 20, 60]),
    batch_wait_ms=st.sampled_from([0, 10]),
    on_failure=st.sampled_from(["passthrough", "drop"]),
    on_overload=st.sampled_from(["passthrough", "drop"]),
)
def test_every_frame_has_one_fate_in_order_and_by_its_deadline(
    arrivals: list[tuple[int, float, bool, float]], deadline_ms: int, **params: Any
) -> None:
    publish_s = 0.001
    simulation = Simulation(3, deadline_ms=deadline_ms, **params)
    for camera in simulation.cameras.values():
        camera.publish_s = publish_s
    for number, (camera, pause_s, large, call_s) in enumerate(arrivals):
        simulation.latency_s = call_s
        simulation.send(number, camera, LARGE if large else SMALL)
        simulation.advance(pause_s)
    simulation.settle()
    simulation.close()
    assert not simulation.errors
    for camera in range(3):
        sent, figures = simulation.sent(camera), simulation.figures(camera)
        stamps = [stamp for stamp, _ in sent]
        assert stamps == sorted(set(stamps))
        assert len(sent) == figures.derained + sum(figures.passed_through.values())
        assert figures.received == [where for where, *_ in arrivals].count(camera)
        if deadline_ms and params["on_overload"] == "drop":
            # What publishing takes is not known before the first frames.
            assert max(latencies_s(simulation, camera), default=0.0) <= deadline_ms / 1000 + 3 * publish_s + 1e-9


def test_the_original_goes_out_by_the_deadline_and_the_late_result_does_not(make: Make) -> None:
    simulation = make(latency_s=0.2, deadline_ms=50)
    for number in range(4):
        simulation.send(number)
        simulation.advance(0.1)
    assert simulation.sent() == [(number, "deadline") for number in range(4)]
    # A frame that waits behind a call which is late has its own deadline.
    assert max(latencies_s(simulation)) == pytest.approx(0.05)
    assert simulation.cameras["camera0"].stats.missed_in_row == 4
    simulation.advance(1.0)
    assert len(simulation.sent()) == 4


@pytest.mark.parametrize(("latency_s", "fate", "missed"), [(0.11, "deadline", 2), (0.09, "derained", 0)])
def test_a_result_is_late_by_when_it_came_not_by_when_it_is_looked_at(
    make: Make, latency_s: float, fate: str, missed: int
) -> None:
    simulation = make(latency_s=0.2, deadline_ms=100)
    simulation.send(1)
    simulation.advance(0.3)
    simulation.latency_s, simulation.stall_s = latency_s, 0.05  # the step comes after both result and deadline
    simulation.send(2)
    simulation.advance(1.0)
    assert simulation.sent() == [(1, "deadline"), (2, fate)]
    assert simulation.cameras["camera0"].stats.missed_in_row == missed


def test_equal_sizes_share_a_batch_and_others_stand_beside(make: Make) -> None:
    simulation = make(4, latency_s=0.02, batch_wait_ms=500)
    for turn in range(3):
        for camera in range(4):
            simulation.send(turn, camera, LARGE if camera == 3 else SMALL)
        simulation.settle()
    # The first frame waits for nobody, as no camera is known yet; later every one is.
    assert simulation.batches[-2:] in ([3, 1], [1, 3])
    assert all(simulation.sent(camera) == [(turn, "derained") for turn in range(3)] for camera in range(4))


def test_a_batch_waits_no_longer_than_it_may(make: Make) -> None:
    simulation = make(2, batch_wait_ms=400)
    for number in range(2):
        simulation.send(number, camera=0)
        simulation.send(number, camera=1)
        simulation.settle()
        simulation.advance(0.1)
    simulation.send(2, camera=0)
    simulation.settle()
    assert latencies_s(simulation)[-1] == pytest.approx(0.4)
    simulation.advance(1.1)  # the other counts as stopped now
    simulation.send(3, camera=0)
    simulation.settle()
    assert simulation.batches[-1] == 1
    assert latencies_s(simulation)[-1] == 0.0


@pytest.mark.parametrize("calls_s", [[0.05, 0.05, 0.06], [0.08, 0.05, 0.09]])
def test_a_frame_in_a_hurry_waits_for_no_batch(make: Make, calls_s: list[float]) -> None:
    """Its call may take somewhat longer than the longest of late, and its result is in time all the same."""
    simulation = make(2, batch_wait_ms=1000, deadline_ms=300)
    for number, call_s in enumerate(calls_s[:2]):
        simulation.latency_s = call_s
        simulation.send(number, camera=0)
        simulation.send(number, camera=1)
        simulation.settle()
        simulation.advance(0.1)
    simulation.latency_s = calls_s[2]
    simulation.send(3, camera=0)  # the other is about to come, but does not
    simulation.settle()
    assert simulation.sent(0)[-1] == (3, "derained")
    assert 0.25 < latencies_s(simulation)[-1] < 0.3
    assert simulation.cameras["camera0"].stats.missed_in_row == 0


def test_the_gate_opens_also_when_every_look_is_late(make: Make) -> None:
    simulation = make(
        latency_s=0.08,
        deadline_ms=40,
        rain_gate__enabled=True,
        rain_gate__hold_s=0,
        rain_gate__probe_period_s=0.05,
        rain_gate__on_threshold=0.0,
        rain_gate__off_threshold=0.0,
    )
    gate = simulation.cameras["camera0"].gate
    assert gate.note_score(-1.0, 0.0, simulation.params), "it is dry"
    for number in range(10):
        simulation.send(number)
        simulation.advance(0.02)
    assert gate.state(simulation.params) == "rain"


@pytest.mark.parametrize(("deadline_ms", "latest_s"), [(0, 0.05), (20, 0.02)])
def test_a_camera_info_that_does_not_come_is_waited_for_shortly(make: Make, deadline_ms: int, latest_s: float) -> None:
    simulation = make(enabled=False, deadline_ms=deadline_ms)
    simulation.cameras["camera0"].awaited = {1}
    simulation.send(1)
    simulation.settle()
    assert latencies_s(simulation) == pytest.approx([latest_s])
