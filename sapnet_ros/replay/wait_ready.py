"""``python -m sapnet_ros.replay.wait_ready TOPIC...``: ends when all topics of std_msgs/Bool have said true."""

from __future__ import annotations

import argparse
import sys
from functools import partial

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Bool

from sapnet_ros.qos import latched_profile
from sapnet_ros.replay.waiting import WaitingNode


def main(argv: list[str] | None = None) -> int:
    """0 when all are ready, 1 where they are not within ``--timeout``."""
    parser = argparse.ArgumentParser("wait_ready", description="Wait until all topics of std_msgs/Bool say true.")
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S")
    args = parser.parse_args(remove_ros_args(sys.argv if argv is None else ["wait_ready", *argv])[1:])
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
    print(f"wait_ready: nothing said true on {late} within {args.timeout:g} s", file=sys.stderr)
    return 1


def _keep(ready: dict[str, bool], topic: str, message: Bool) -> None:
    ready[topic] = message.data


if __name__ == "__main__":
    sys.exit(main())
