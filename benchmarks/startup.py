"""How long derain_node takes to start: ``python benchmarks/startup.py`` prints a table.

From the start of its process to the first frame published at all and to the first derained one, while a camera sends:
with an engine that is still to be built (cold cache) and with one that is there (warm). The backend is fake, its
engine takes BUILD_S to build; whatever a real network takes to load and compile comes on top.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import rclpy
from cameras import isolate, playing, running_node
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from tables import print_head, print_row

BUILD_S = 5.0
TIMEOUT_S = 60.0
RATE_HZ = 30.0


def start(node: Node, cache: str) -> tuple[str, str]:
    """Seconds of one start to the first frame, and to the first derained one."""
    at_s: dict[str, float] = {}  # when the first frame came that was derained or passed_through

    def note(message: DiagnosticArray) -> None:
        at_s.setdefault(message.status[0].message, time.monotonic())

    subscription = node.create_subscription(DiagnosticArray, "front/frame_status", note, 1000)
    parameters = ("backend:=fake", "cameras:=[front]", f"fake.build_s:={BUILD_S}", f"cache_dir:={cache}")
    with playing(["front"], (360, 640), RATE_HZ, BUILD_S + 15):
        began_s = time.monotonic()
        with running_node(*parameters, "warmup_sizes:=[360x640]"):
            while "derained" not in at_s and time.monotonic() - began_s < TIMEOUT_S:
                rclpy.spin_once(node, timeout_sec=0.05)
    node.destroy_subscription(subscription)
    return f"{min(at_s.values()) - began_s:.2f}", f"{at_s['derained'] - began_s:.2f}"


def main() -> None:
    """Start with a cold cache and with a warm one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    isolate()
    rclpy.init()
    node = rclpy.create_node("startup")
    print_head("cache", "first frame out, s", "first derained, s")
    for _ in range(args.times):
        with tempfile.TemporaryDirectory() as cache:
            for name in ("cold", "warm"):
                print_row(name, *start(node, cache))
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
