"""``python -m sapnet_ros.replay.waiting TOPIC...`` ends when all topics of std_msgs/Bool have said true."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Bool

from sapnet_ros.qos import latched_profile

POLL_S = 0.1


def main(argv: list[str] | None = None) -> int:
    """0 when all are ready, 1 where they are not within ``--timeout``."""
    parser = argparse.ArgumentParser("waiting", description="Wait until all topics of std_msgs/Bool say true.")
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S")
    args = parser.parse_args(remove_ros_args(sys.argv if argv is None else ["waiting", *argv])[1:])
    rclpy.init(args=argv)
    node = rclpy.create_node("wait_ready")
    ready: dict[str, bool] = dict.fromkeys(args.topics, False)
    for topic in ready:
        node.create_subscription(Bool, topic, partial(_keep, ready, topic), latched_profile())
    until_s = time.monotonic() + args.timeout
    try:
        while not all(ready.values()) and time.monotonic() < until_s:
            rclpy.spin_once(node, timeout_sec=POLL_S)
    except (ExternalShutdownException, KeyboardInterrupt):
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if late := [topic for topic, value in ready.items() if not value]:
        print(f"waiting: nothing said true on {', '.join(late)} within {args.timeout:g} s", file=sys.stderr)
    return 1 if late else 0


def _keep(ready: dict[str, bool], topic: str, message: Bool) -> None:
    ready[topic] = message.data


if __name__ == "__main__":
    sys.exit(main())
