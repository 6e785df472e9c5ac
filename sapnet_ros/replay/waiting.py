"""A node that serves its own callbacks while it waits for something."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

# Discovery and signals wake no executor.
SLICE_S = 0.05


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
