"""Real nodes in real processes over real DDS, on this host, in the domain that conftest.py sets."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Bool

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 30.0
# We know a publisher before it knows our subscription, which nothing tells us; what it sends until then is lost to us.
FOUND_S = 0.5
RESEND_S = 5.0
# So deep are our queues, that nothing is overwritten in them when the machine is busy elsewhere for a moment.
DEPTH = 2000


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """The first true value of ``condition``; fails with ``what`` was waited for."""
    end, pause_s = time.monotonic() + timeout_s, 0.001
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.02)
    pytest.fail(f"waited {timeout_s:g} s for {what}")


@contextlib.contextmanager
def repeating(action: Callable[[], Any], hz: float) -> Iterator[None]:
    """Calls ``action`` at this rate all the while, on a thread."""
    ends = threading.Event()

    def run() -> None:
        while not ends.wait(1 / hz):
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def named(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by their ROS names, in which two underscores stand for a dot."""
    return {name.replace("__", "."): value for name, value in params.items()}


def arguments(*ros_args: str, **params: Any) -> list[str]:
    """Of a command line."""
    return [
        "--ros-args",
        *ros_args,
        *(word for name, value in named(params).items() for word in ("-p", f"{name}:={value}")),
    ]


class NodeProcess:
    """derain_node as a process. ``params`` are given as on the command line."""

    def __init__(self, *ros_args: str, command: list[str] | None = None, log: Path, **params: Any) -> None:
        command = command or [sys.executable, "-m", "sapnet_ros.derain_node"]
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, *arguments(*ros_args, **params)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit code, once the process ends."""
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"derain_node did not end; its log:\n{self.log.read_text()}")


class LocalNode:
    """derain_node in the test's own process: for all that is not about the process. ``params`` as of NodeProcess.

    lines: of its log.
    """

    def __init__(self, peer: Peer, *ros_args: str, **params: Any) -> None:
        from sapnet_ros.node import DerainNode

        self.lines: list[str] = []
        self._codes: list[int] = []
        severities = ("debug", "info", "warning", "error", "fatal")
        logger = SimpleNamespace(**dict.fromkeys(severities, lambda text, **more: self.lines.append(text)))

        class Noting(DerainNode):
            def get_logger(self) -> Any:
                return logger

        given = {"context": peer.context, "cli_args": arguments(*ros_args, **params), "use_global_arguments": False}
        self._peer = peer
        self.node = peer.on_executor(lambda: Noting(self._codes.append, **given))
        peer.executor.add_node(self.node)

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait(self) -> int:
        """The exit status that the process would end with."""
        wait_for(lambda: self._codes, "the end")
        return self._codes[0]

    def close(self) -> None:
        """End it, as a signal does, unless it has ended."""

        def end() -> None:
            if self.node is None:
                return
            with contextlib.suppress(RuntimeError):  # already shut down, by a transition
                self.node.trigger_shutdown()
            self._peer.executor.remove_node(self.node)
            self.node.destroy_node()
            # rclpy leaves the lifecycle services to the garbage collector: the next test would find them, and nobody
            # would answer.
            self.node = None
            gc.collect()

        self._peer.on_executor(end)


class Peer:
    """The other side: publishes to a derain_node and collects what it sends."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._running = True
        self._clients: dict[str, Any] = {}
        self._diagnostics: list[Any] | None = None
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def close(self) -> None:
        """Stop spinning and leave the network."""
        self._running = False
        self.executor.wake()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def on_executor(self, call: Callable[[], Any]) -> Any:
        """What ``call`` returns, which is called where callbacks are."""
        task = self.executor.create_task(call)
        wait_for(task.done, "a task of the executor")
        return task.result()

    def publisher(self, message_type: type, topic: str, subscribers: int = 1, **qos: Any) -> Any:
        """A publisher that has found its subscribers. What ``collect`` was asked for before has been found too."""
        publisher = self.node.create_publisher(message_type, topic, QoSProfile(depth=DEPTH, **qos))
        wait_for(lambda: publisher.get_subscription_count() >= subscribers, f"a subscriber of {topic}")
        time.sleep(FOUND_S)
        return publisher

    def destroy_publisher(self, publisher: Any) -> None:
        """Destroy a publisher where callbacks are: the executor may be about to wait for its events."""
        self.on_executor(lambda: self.node.destroy_publisher(publisher))

    def collect(self, message_type: type, topic: str, latched: bool = False, publishers: int = 1) -> list[Any]:
        """A list that fills with what comes on a topic; waits for a publisher."""
        messages: list[Any] = []
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        profile = QoSProfile(depth=DEPTH, durability=durability)
        subscription = self.node.create_subscription(message_type, topic, messages.append, profile)
        wait_for(lambda: self.node.count_publishers(subscription.topic_name) >= publishers, f"a publisher of {topic}")
        return messages

    def wait_ready(self, topic: str = "/derain_node/ready") -> None:
        """Until a node says that it would derain a frame at once."""
        ready = self.collect(Bool, topic, latched=True)
        wait_for(lambda: ready and ready[-1].data, "ready", 200)

    def status(self, what: str = "camera", node: str = "/derain_node") -> dict[str, Any]:
        """Values, level and message of a diagnostic status that was made after this was called."""
        if self._diagnostics is None:
            self._diagnostics = self.collect(DiagnosticArray, "/diagnostics")
        self._diagnostics.clear()
        return dict(wait_for(lambda: status_values(list(self._diagnostics), f"{node}: {what}"), f"status {what}"))

    def call(self, service_type: Any, name: str, **request: Any) -> Any:
        """Call a service with the fields of a request; returns its response."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, name)
            assert self._clients[name].wait_for_service(TIMEOUT_S), f"no service {name}"
            # The service drops an answer if it does not know our reader yet, which nothing tells us either.
            time.sleep(FOUND_S)
        client = self._clients[name]
        assert client.wait_for_service(TIMEOUT_S), f"no service {name}"
        # The graph still shows services of nodes that have just ended, to which a request is lost: send it again.
        answers: SimpleQueue[Any] = SimpleQueue()
        for _ in range(int(TIMEOUT_S / RESEND_S)):
            client.call_async(service_type.Request(**request)).add_done_callback(answers.put)
            with contextlib.suppress(Empty):
                return answers.get(timeout=RESEND_S).result()
        pytest.fail(f"waited {TIMEOUT_S:g} s for an answer of {name}")

    def state(self, node: str = "/derain_node") -> str:
        """The lifecycle state of a node."""
        return str(self.call(GetState, f"{node}/get_state").current_state.label)

    def change(self, transition: int, node: str = "/derain_node") -> bool:
        """Trigger a lifecycle transition; returns whether it succeeded."""
        return bool(self.call(ChangeState, f"{node}/change_state", transition=Transition(id=transition)).success)

    def get(self, node: str, *names: str) -> list[Any]:
        """Values of a node's parameters."""
        values = self.call(GetParameters, f"{node}/get_parameters", names=names).values
        return [parameter_value_to_python(value) for value in values]

    def set(self, node: str = "/derain_node", **params: Any) -> Any:
        """Set parameters of a node, or delete one by None; returns the result."""
        messages = []
        for name, value in named(params).items():
            kind = Parameter.Type.STRING_ARRAY if value == [] else None  # which would be one of bytes
            messages.append(Parameter(name, kind, value).to_parameter_msg())
        return self.call(SetParametersAtomically, f"{node}/set_parameters_atomically", parameters=messages).result

    def _spin(self) -> None:
        while self._running:
            self.executor.spin_once(timeout_sec=0.2)


def image(pixels: np.ndarray, stamp: int, encoding: str = "bgr8", frame_id: str = "camera_optical") -> Any:
    """A sensor_msgs Image; ``stamp`` in whole milliseconds."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels.strides[0])
    message.header.frame_id = frame_id
    message.header.stamp.sec, millis = divmod(stamp, 1000)
    message.header.stamp.nanosec = millis * 1_000_000
    message.data = array.array("B", pixels.tobytes())
    return message


def millis(message: Any) -> int:
    """The stamp of a message in whole milliseconds."""
    return int(message.header.stamp.sec * 1000 + message.header.stamp.nanosec // 1_000_000)


def status_values(messages: list[Any], name: str) -> dict[str, Any]:
    """The newest values of a diagnostic status, with its level and message."""
    for message in reversed(messages):
        for status in message.status:
            if status.name == name:
                values = {pair.key: pair.value for pair in status.values}
                return values | {"level": status.level, "message": status.message}
    return {}
