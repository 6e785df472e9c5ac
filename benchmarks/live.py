"""What the node adds: ``python benchmarks/live.py`` measures derain_node over real DDS against the bare Derainer.

Prints JSON: latency one frame at a time and at half the bare rate, and what a large frame loses in transport.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter

from sapnet.derainer import Derainer
from sapnet.media.sequence import RainySequence
from sapnet_ros.demo.camera import Player, stamp_of
from sapnet_ros.replay.processes import Processes

READY_S = 120.0
RETURN_S = 10.0
NAMESPACE = "/sapnet_bench"


@contextmanager
def running_node(*parameters: str, best_effort: bool = False) -> Iterator[tuple[Player, dict[str, str]]]:
    """A derain_node process and a Player beside it; the dict follows the camera's diagnostics."""
    arguments = ["--ros-args", "-r", f"__ns:={NAMESPACE}", *(word for p in parameters for word in ("-p", p))]
    with tempfile.TemporaryDirectory() as folder, Processes(Path(folder), os.environ) as processes:
        processes.start("node", "sapnet_ros.derain_node", arguments)
        overrides = []
        if best_effort:
            name = f"qos_overrides.{NAMESPACE}/image.publisher.reliability"
            overrides = [Parameter(name, value="best_effort")]
        player = Player(namespace=NAMESPACE, parameter_overrides=overrides)
        values: dict[str, str] = {}

        def keep(message: DiagnosticArray) -> None:
            for status in message.status:
                if status.name.endswith("/derain_node: camera"):
                    values.update({pair.key: pair.value for pair in status.values})

        player.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
        player.wait_for_subscribers(1, READY_S)
        yield player, values
        player.destroy_node()


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """p50 and p95."""
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1e3, 2) for q in (50, 95)}


def closed_loop(count: int, height: int, width: int) -> dict[str, Any]:
    """One frame in flight; every other call is the bare Derainer's, so that both see the same machine."""
    frames = [np.ascontiguousarray(f.rainy[:height, :width]) for f in RainySequence(None, "heavy", 30, 0)]
    bare, live = [], []
    with Derainer() as derainer, running_node() as (player, _):
        derainer.prepare(height, width)
        player.announce(height, width, READY_S)
        for number in range(count + 5):
            frame = frames[number % len(frames)]
            start = time.monotonic()
            derainer([frame])
            bare.append(time.monotonic() - start)
            sent = player.send(frame)
            assert player.wait_returned(sent, RETURN_S), f"frame {number} did not come back"
            live.append(time.monotonic() - sent.steady_ns / 1e9)
    result = {"frames": count, "bare_ms": milliseconds(bare[5:]), "live_ms": milliseconds(live[5:])}
    return result | {"ratio_p50": round(result["live_ms"]["p50"] / result["bare_ms"]["p50"], 3)}


def open_loop(count: int, height: int, width: int, bare_p50_ms: float) -> dict[str, Any]:
    """At half the rate that the bare Derainer could keep."""
    frames = [np.ascontiguousarray(f.rainy[:height, :width]) for f in RainySequence(None, "heavy", 30, 0)]
    period_s = 2e-3 * bare_p50_ms
    returned: dict[int, float] = {}
    with running_node() as (player, values):
        player.announce(height, width, READY_S)

        def keep(status: DiagnosticArray) -> None:
            returned.setdefault(stamp_of(status.header), time.monotonic())

        player.create_subscription(DiagnosticArray, "frame_status", keep, 100)
        sent, next_s = [], time.monotonic()
        for number in range(count):
            player.spin_until(lambda: False, next_s - time.monotonic())
            sent.append(player.send(frames[number % len(frames)]))
            next_s += period_s
        player.spin_until(lambda: len(returned) == count, RETURN_S)
        player.spin_until(lambda: int(values.get("received", 0)) == count and values["in_flight"] == "0", 3.0)
        live = [returned[s.stamp_ns] - s.steady_ns / 1e9 for s in sent if s.stamp_ns in returned]
        counts = {key: int(values[key]) for key in ("received", "derained", "passed_through", "dropped")}
    ratio = round(milliseconds(live)["p50"] / bare_p50_ms, 3)
    return {
        "rate_hz": round(1 / period_s, 2),
        "sent": count,
        **counts,
        "live_ms": milliseconds(live),
        "ratio_p50": ratio,
    }


def transport(count: int, best_effort: bool) -> dict[str, Any]:
    """1280x720 bgr8 at 10 Hz through the fake backend, default Fast DDS."""
    frame = np.zeros((720, 1280, 3), np.uint8)
    with running_node("backend:=fake", "warmup_sizes:=[720x1280]", best_effort=best_effort) as (player, values):
        player.spin_until(lambda: bool(player.ready), READY_S)
        player.spin_until(lambda: False, 2.0)  # discovery, and the fallback to best effort
        sent, next_s = [], time.monotonic()
        for _ in range(count):
            player.spin_until(lambda: False, next_s - time.monotonic())
            sent.append(player.send(frame))
            next_s += 0.1
        player.spin_until(lambda: False, 3.0)
        keys = ("received", "lost_in_transport", "derained", "passed_through", "dropped")
        return {"sent": count, **{key: int(values[key]) for key in keys}, "fallback": values["best_effort_fallback"]}


def main() -> None:
    """Run all and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "91")
    rclpy.init()
    closed = closed_loop(args.frames, 240, 320)
    results = {
        "closed_loop_240x320": closed,
        "open_loop_240x320": open_loop(args.frames, 240, 320, closed["bare_ms"]["p50"]),
        "transport_720x1280_reliable": transport(args.frames, best_effort=False),
        "transport_720x1280_best_effort": transport(args.frames, best_effort=True),
    }
    print(json.dumps(results, indent=2))
    rclpy.shutdown()


if __name__ == "__main__":
    main()
