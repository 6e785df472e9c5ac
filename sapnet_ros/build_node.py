"""The node as a builder: engines for the drive, before the drive."""

from __future__ import annotations

from dataclasses import replace

from sapnet_ros.node import DerainNode
from sapnet_ros.params import NodeParams

POLL_S = 0.1


class BuildNode(DerainNode):
    """Builds the engines of ``warmup_sizes`` with the parameters of derain_node, derains nothing, and ends."""

    def start(self) -> None:
        """Configure, which begins to build, and wait for the end of that."""
        if self.trigger_all(self.trigger_configure):
            self._timer = self.create_timer(POLL_S, self._end_when_built, clock=self.steady)

    def read_params(self) -> NodeParams:
        """Those of the node; ``auto`` means the backend that builds engines."""
        current = super().read_params()
        return replace(current, backend="tensorrt") if current.backend == "auto" else current

    def _end_when_built(self) -> None:
        if self.loader is None or self.params is None:
            return  # somebody has taken the node down
        error = (
            "" if self.params.warmup_sizes else "set warmup_sizes to the frame sizes that engines are to be built for"
        )
        error = error or self.loader.error
        if error:
            self.get_logger().fatal(error)
        elif not self.loader.ready:
            return
        else:
            self.get_logger().info("all engines are ready")
        self._timer.cancel()
        self.on_end(1 if error else 0)
