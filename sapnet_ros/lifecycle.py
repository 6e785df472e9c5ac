"""Transitions that fail loudly: rclpy swallows what they raise."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def transition_to(label: str) -> Callable[[Transition], Transition]:
    """For a transition method: keeps the node's ``state`` label, logs what is raised.

    A way up that raises is undone by the node's ``stop`` and, from unconfigured, ``free``, and is a FAILURE. A way
    down that raises is an ERROR, after which rclpy calls ``on_error``: the state it came from is gone.
    """

    def decorate(method: Transition) -> Transition:
        @functools.wraps(method)
        def wrapped(self: Any, state: LifecycleState) -> TransitionCallbackReturn:
            try:
                result = method(self, state)
            except Exception:
                self.get_logger().error(f"{method.__name__} failed:\n{traceback.format_exc()}")
                if method.__name__ not in ("on_configure", "on_activate"):
                    return TransitionCallbackReturn.ERROR
                self.stop()
                if method.__name__ == "on_configure":
                    self.free()
                return TransitionCallbackReturn.FAILURE
            if result == TransitionCallbackReturn.SUCCESS:
                self.state = label
            return result

        return wrapped

    return decorate
