"""The executable: signals first, then the node, and a clean end in every state."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from importlib.util import find_spec
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapnet_ros.node import DerainNode

JOIN_TIMEOUT_S = 5.0
# launch kills a process ten seconds after SIGINT.
END_WITHIN_S = 9.0
LEFTOVERS_TIMEOUT_S = 1.0
AFTER_ERROR_S = 0.1
BUILD_ONLY = "--build-only"


class RosHandler(logging.Handler):
    """Passes records of Python's ``logging`` on to a ROS logger."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log at the severity of the record."""
        text = self.format(record)
        # Each severity needs its own call site: rclpy refuses one whose severity changes.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def main(args: list[str] | None = None) -> int:
    """Run derain_node until SIGINT or SIGTERM. Returns 0 then, and 1 if it cannot start.

    With ``--build-only`` among the arguments it builds the engines of ``warmup_sizes`` and ends, with 1 if it cannot.
    """
    if missing := _missing_ros():
        print(f"derain_node cannot start: {missing}", file=sys.stderr)
        return 1
    # A queue, for its put is safe in a signal handler, also in one that interrupts another.
    ends: SimpleQueue[int] = SimpleQueue()
    # Before the imports, which take a while: a signal during them must end the process cleanly too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ends.put(0))

    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from sapnet.memory import keep_freed_memory
    from sapnet_ros.node import BuildNode, DerainNode

    keep_freed_memory()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        build_only = BUILD_ONLY in (sys.argv if args is None else args)
        node = (BuildNode if build_only else DerainNode)(on_end=ends.put)
    except Exception as err:
        print(f"derain_node cannot start: {type(err).__name__}: {err}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    logger = logging.getLogger("sapnet")
    logger.setLevel(logging.INFO)
    logger.addHandler(RosHandler(node.get_logger()))

    def end_on_error(error: threading.ExceptHookArgs) -> None:
        """An error that nobody expects ends the process, which can be respawned; a lost thread would go unnoticed."""
        said = "".join(traceback.format_exception(error.exc_type, error.exc_value, error.exc_traceback))
        node.get_logger().fatal(f"thread {error.thread and error.thread.name} failed:\n{said}")
        ends.put(1)

    threading.excepthook = end_on_error
    code, all_ended = _run(node, ends)
    rclpy.try_shutdown()
    if not all_ended:
        # A thread inside a library that does not return would crash the interpreter's end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _missing_ros() -> str:
    """What keeps the node from running on the ROS 2 that is installed; empty where nothing does."""
    if find_spec("rclpy") is None:
        return "rclpy is not installed: source the setup file of ROS 2 Jazzy or later, as docs/vehicle.md describes"
    if find_spec("rclpy.event_handler") is None:
        distribution = os.environ.get("ROS_DISTRO", "this ROS 2")
        return f"the rclpy of {distribution} is too old: ROS 2 Jazzy or later is needed (on a Jetson: JetPack 7.2)"
    return ""


def _run(node: DerainNode, ends: SimpleQueue[int]) -> tuple[int, bool]:
    """Spin until an exit code comes, then shut the node down. Returns the code, and whether all threads have ended.

    The node spins on a thread of its own, so that the main thread is free for Python's signal handlers.
    """
    from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = True

    def spin() -> None:
        while spinning:
            try:
                executor.spin_once(timeout_sec=1.0)
            except (ExternalShutdownException, ShutdownException):
                ends.put(0)
                return
            except RuntimeError:  # of rclpy, as for a transition that the state does not allow
                node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")
                time.sleep(AFTER_ERROR_S)

    spinner = Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    code = ends.get()
    end_s = time.monotonic() + END_WITHIN_S
    spinning = False
    executor.wake()
    spinner.join(JOIN_TIMEOUT_S)
    if not spinner.is_alive():
        with contextlib.suppress(RuntimeError):  # already shut down, by a transition
            node.trigger_shutdown()
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
    until_s = min(end_s, time.monotonic() + LEFTOVERS_TIMEOUT_S)
    # Ours are all daemons; those that a library has made without Python are of another class.
    threads = [thread for thread in threading.enumerate() if thread.daemon and type(thread) is Thread]
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    return code, not any(thread.is_alive() for thread in threads)


if __name__ == "__main__":
    sys.exit(main())
