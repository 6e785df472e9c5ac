"""The executable: signals first, then the node, and a clean end in every state."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from threading import Event, Thread
from threading import enumerate as all_threads
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sapnet_ros.node import DerainNode

JOIN_TIMEOUT_S = 5.0


def main(args: list[str] | None = None) -> int:
    """Run derain_node until SIGINT or SIGTERM. Returns 0 then, and 1 if it cannot start."""
    stop = Event()
    # Before the imports, which take a while: a signal during them must end the process cleanly too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from sapnet_ros.logs import RosHandler
    from sapnet_ros.node import DerainNode

    failed = Event()

    def give_up() -> None:
        failed.set()
        stop.set()

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = DerainNode(on_autostart_failed=give_up)
    except Exception as err:
        print(f"derain_node: {err}", file=sys.stderr)
        return 1
    logger = logging.getLogger("sapnet")
    logger.setLevel(logging.INFO)
    logger.addHandler(RosHandler(node.get_logger()))
    all_ended = _run(node, stop)
    rclpy.try_shutdown()
    code = 1 if failed.is_set() else 0
    if not all_ended:
        # A thread inside a library that does not return would crash the interpreter's end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(node: DerainNode, stop: Event) -> bool:
    """Spin until ``stop``, then shut the node down. Returns whether every thread of ours has ended.

    The node spins on a thread of its own, so that the main thread is free for Python's signal handlers.
    """
    from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        while not stop.is_set():
            try:
                executor.spin_once(timeout_sec=1.0)
            except (ExternalShutdownException, ShutdownException):
                stop.set()
            except Exception:  # one bad request or callback must not end the node
                node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")

    spinner = Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    stop.wait()
    executor.wake()
    spinner.join(JOIN_TIMEOUT_S)
    ended = not spinner.is_alive()
    if ended:
        with contextlib.suppress(Exception):  # already shut down, by a transition
            node.trigger_shutdown()
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
    background = [thread for thread in all_threads() if thread.name in ("worker", "loader")]
    for thread in background:
        thread.join(1.0)
    return ended and not any(thread.is_alive() for thread in background)


if __name__ == "__main__":
    sys.exit(main())
