"""What those that publish to a node share: a node that serves its own callbacks while it waits, errors, exit statuses.

``python -m sapnet_ros.replay.waiting TOPIC...`` ends when all topics of std_msgs/Bool have said true.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Bool, Header

from sapnet.errors import SapnetError
from sapnet_ros.qos import latched_profile

EXIT_FAILED = 1
EXIT_INPUT = 2
# Discovery and signals wake no executor.
SLICE_S = 0.05
# A node that does not know a size yet says within this time that it is no longer ready.
READINESS_CHANGES_S = 1.0
# Endpoints that have found us may not yet listen.
SETTLE_S = 0.5


class PlayerError(SapnetError):
    """Nobody listens, or what was sent does not come back."""


class WaitingNode(Node):
    """Not thread-safe: it spins itself, in the thread that waits."""

    def __init__(self, name: str, **node_options: Any) -> None:
        super().__init__(name, **node_options)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Serve callbacks until ``condition`` holds; whether it did in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.serve(left)
        return True

    def serve(self, at_most_s: float) -> None:
        """Wait a moment for a callback, and serve it."""
        self._executor.spin_once(timeout_sec=min(at_most_s, SLICE_S))

    def destroy_node(self) -> None:
        """Free everything."""
        self._executor.shutdown()
        super().destroy_node()


def stamp_of(header: Header) -> int:
    """Nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def parse_rate(text: str) -> float:
    """A finite number above 0."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return rate


def main(argv: list[str] | None = None) -> int:
    """0 when all are ready, 1 where they are not within ``--timeout``."""
    parser = argparse.ArgumentParser("waiting", description="Wait until all topics of std_msgs/Bool say true.")
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S")
    args = parser.parse_args(remove_ros_args(sys.argv if argv is None else ["waiting", *argv])[1:])
    rclpy.init(args=argv)
    node = WaitingNode("wait_ready")
    ready: dict[str, bool] = dict.fromkeys(args.topics, False)
    try:
        for topic in ready:
            node.create_subscription(Bool, topic, partial(_keep, ready, topic), latched_profile())
        if node.spin_until(lambda: all(ready.values()), args.timeout):
            return 0
    except (ExternalShutdownException, KeyboardInterrupt):
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    late = ", ".join(topic for topic, value in ready.items() if not value)
    print(f"waiting: nothing said true on {late} within {args.timeout:g} s", file=sys.stderr)
    return 1


def _keep(ready: dict[str, bool], topic: str, message: Bool) -> None:
    ready[topic] = message.data


if __name__ == "__main__":
    sys.exit(main())
