"""``python -m sapnet_ros.replay.waiting TOPIC`` ends when the topic, of std_msgs/Bool, says true."""

from __future__ import annotations

import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.task import Future
from std_msgs.msg import Bool

from sapnet_ros.qos import latched_profile

TIMEOUT_S = 600.0


def main() -> int:
    """0 when the topic says true, 1 where it does not in time."""
    topic = sys.argv[1]
    rclpy.init()
    node = rclpy.create_node("wait_ready")
    ready: Future[None] = Future()
    node.create_subscription(Bool, topic, lambda said: said.data and ready.set_result(None), latched_profile())
    try:
        rclpy.spin_until_future_complete(node, ready, timeout_sec=TIMEOUT_S)
    except (ExternalShutdownException, KeyboardInterrupt):
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if not ready.done():
        print(f"waiting: nothing said true on {topic} within {TIMEOUT_S:g} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
