"""DerainNode: camera frames in, derained frames and streak masks out. Wiring only."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from sapnet.image import MIN_SIDE
from sapnet.messages import Decoded, decode_compressed, decode_image
from sapnet_ros import diagnostics, failopen, params
from sapnet_ros.camera import Camera
from sapnet_ros.cv_bridge_fallback import cv_bridge_fallback
from sapnet_ros.loader import Loader
from sapnet_ros.logs import Throttle
from sapnet_ros.mailbox import Mailbox, Received
from sapnet_ros.params import NodeParams
from sapnet_ros.qos import ReliabilityOverrides, latched_profile
from sapnet_ros.worker import Worker

if TYPE_CHECKING:
    from sapnet.derainer import Derainer

MIN_SIZES = 4  # frame sizes kept ready at once, or more where as many are configured
STOP_TIMEOUT_S = 2.0  # a frame in hand is waited for this long when the node is deactivated

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def transition(method: Transition) -> Transition:
    """Log what a transition raises, undo what it had begun and return FAILURE: rclpy swallows it silently."""

    @functools.wraps(method)
    def wrapped(self: Any, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return method(self, state)
        except Exception:
            self.get_logger().error(f"{method.__name__} failed:\n{traceback.format_exc()}")
            self._stop()
            if method.__name__ == "on_configure":
                self._free()
            return TransitionCallbackReturn.FAILURE

    return wrapped


class DerainNode(LifecycleNode):
    """The lifecycle node. Topics, parameters and states are described in the README."""

    def __init__(self, on_autostart_failed: Callable[[], None] = lambda: None) -> None:
        super().__init__("derain_node")
        self._on_autostart_failed = on_autostart_failed
        self._refused = params.declare(self)
        self._params: NodeParams | None = None
        self._cameras: dict[str, Camera] = {}
        self._overrides = ReliabilityOverrides(self)
        self._loader: Loader | None = None
        self._mailbox: Mailbox | None = None
        self._worker: Worker | None = None
        self._ready_publisher: Any = None
        self._ready_sent: bool | None = None
        self._ready_lock = Lock()
        self._services_made: list[Any] = []
        self._active_since_s = 0.0
        self._throttle = Throttle()
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        # Steady: under use_sim_time without /clock a timer of the node's clock never fires.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics, clock=self._steady)
        if self.get_parameter("autostart").value:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=self._steady)

    # Transitions

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, make the publishers and begin to load the network; waits for nothing."""
        if self._refused:
            for reason in self._refused.values():
                self.get_logger().error(reason)
            return TransitionCallbackReturn.FAILURE
        self._params = current = params.current(self)
        for name in current.ineffective():
            self.get_logger().warning(f"parameter {name!r} is accepted but has no effect in this version")
        self._ready_publisher = self.create_publisher(Bool, "~/ready", latched_profile())
        names = current.cameras or ("",)
        self._cameras = {name: Camera(self, name, current) for name in names}
        self._decode = self._decoder(current)
        self._services_made = [self.create_service(SetBool, "~/enable", self._enable_all)]
        self._services_made += [
            self.create_service(SetBool, f"~/{name}/enable", functools.partial(self._enable_one, camera))
            for name, camera in self._cameras.items()
            if name
        ]
        max_sizes = max(MIN_SIZES, len(names), len(current.warmup_sizes))
        self._loader = Loader(
            functools.partial(_load_derainer, current, max_sizes),
            current.stages,
            current.warmup_sizes,
            max_sizes,
            on_change=self._publish_ready,
            on_error=lambda text: self.get_logger().error(text),
        )
        self._publish_ready()
        return super().on_configure(state)

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        assert self._params is not None
        result = super().on_activate(state)
        self._mailbox = Mailbox(tuple(self._cameras))
        self._worker = Worker(self._mailbox, functools.partial(self._handle, self._mailbox), self._on_worker_error)
        self._active_since_s = time.monotonic()
        for camera in self._cameras.values():
            camera.subscribe(
                self._params,
                functools.partial(self._receive, camera),
                self._receive_info,
                self._overrides,
            )
            self.get_logger().info(f"deraining {camera.topics.image} to {camera.topics.derained}")
        return result

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the frame in hand, drop what waits."""
        self._stop()
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured anew."""
        self._free()
        return super().on_cleanup(state)

    @transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state to the end."""
        self._stop()
        self._free()
        return super().on_shutdown(state)

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                self.get_logger().fatal("the node cannot start; the lines above say why")
                self._on_autostart_failed()
                return

    def _stop(self) -> None:
        for camera in self._cameras.values():
            camera.unsubscribe()
        if self._mailbox is not None:
            for frame in self._mailbox.close():
                self._cameras[frame.camera].stats.count_dropped(failopen.SHUTDOWN)
        if self._worker is not None and not self._worker.join(STOP_TIMEOUT_S):
            self.get_logger().error(f"the frame in hand is not done after {STOP_TIMEOUT_S:g} s: it is given up")
        self._mailbox = self._worker = None

    def _free(self) -> None:
        if self._loader is not None:
            self._loader.close()
            self._loader = None
        for camera in self._cameras.values():
            camera.destroy()
        self._cameras = {}
        for service in self._services_made:
            self.destroy_service(service)
        self._services_made = []
        with self._ready_lock:
            if self._ready_publisher is not None:
                self.destroy_publisher(self._ready_publisher)
            self._ready_publisher = self._ready_sent = None
        self._params = None

    # Frames

    def _decoder(self, current: NodeParams) -> Callable[[Any], Decoded]:
        if current.image_transport == "compressed":
            return functools.partial(decode_compressed, max_pixels=current.max_pixels)
        return functools.partial(decode_image, max_pixels=current.max_pixels, fallback=cv_bridge_fallback())

    def _receive(self, camera: Camera, message: Any) -> None:
        now_s = time.monotonic()
        camera.stats.count_received(now_s)
        if self._mailbox is None or self._params is None:
            camera.stats.count_dropped(failopen.SHUTDOWN)
            return
        keep_overtaken = self._params.on_overload == "passthrough"
        lost = self._mailbox.put(Received(camera.name, message, now_s), keep_overtaken)
        if lost is not None:
            camera.stats.count_dropped(failopen.OVERLOAD)

    def _receive_info(self, info: Any) -> None:
        """Get the camera's frame size ready before its first frame."""
        if self._loader is None or self._params is None:
            return
        if min(info.height, info.width) >= MIN_SIDE and info.height * info.width <= self._params.max_pixels:
            self._loader.request((info.height, info.width))

    def _handle(self, mailbox: Mailbox, frame: Received) -> None:
        camera, current, loader = self._cameras[frame.camera], self._params, self._loader
        assert current is not None
        assert loader is not None
        outcome = failopen.decide(frame, self._decode, loader, current, current.enabled and camera.enabled)
        if outcome.error:
            self._log_error(f"{camera.label}:{outcome.kind}", f"{camera.label}: {outcome.error}")
        if self._mailbox is not mailbox:  # given up meanwhile: a late result is not published
            camera.stats.count_dropped(failopen.SHUTDOWN)
            return
        if outcome.decoded is None:
            camera.stats.count_dropped(outcome.reason)
            return
        camera.publish(frame.message.header, outcome, current, frame.received_s)
        if outcome.derained is None:
            camera.stats.count_passed_through(outcome.reason)
        else:
            camera.stats.count_derained(time.monotonic() - frame.received_s, outcome.derained.rain_score)

    def _on_worker_error(self, frame: Received, err: Exception) -> None:
        """An error of ours, not of a message or a backend: the frame is lost, the node goes on."""
        if frame.camera in self._cameras:
            self._cameras[frame.camera].stats.count_dropped(failopen.FAILURE)
        self._log_error(f"{frame.camera}:{type(err).__name__}", "".join(traceback.format_exception(err)))

    def _log_error(self, kind: str, text: str) -> None:
        if (suppressed := self._throttle.allow(kind)) is not None:
            more = f" ({suppressed} more like it since the last time)" if suppressed else ""
            self.get_logger().error(text + more)

    # Parameters, services, state

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        reason = params.refusal(self, changes, configured=self._params is not None)
        return SetParametersResult(successful=not reason, reason=reason)

    def _apply_parameters(self, changes: list[Parameter]) -> None:
        for change in changes:
            self._refused.pop(change.name, None)
        if self._params is None:
            return
        old, self._params = self._params, params.current(self)
        if self._loader is not None and self._params.stages != old.stages:
            self._loader.set_stages(self._params.stages)

    def _enable_all(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self.set_parameters([Parameter("enabled", value=request.data)])[0]
        response.success, response.message = result.successful, result.reason
        return response

    def _enable_one(self, camera: Camera, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        camera.enabled = request.data
        response.success = True
        return response

    def _publish_ready(self) -> None:
        with self._ready_lock:
            ready = self._loader is not None and self._loader.ready
            if self._ready_publisher is not None and ready != self._ready_sent:
                self._ready_publisher.publish(Bool(data=ready))
                self._ready_sent = ready

    @property
    def _state(self) -> str:
        """Label of the lifecycle state, as far as frames are concerned."""
        if self._mailbox is not None:
            return "active"
        return "unconfigured" if self._params is None else "inactive"

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name, loader, current = self.get_name(), self._loader, self._params
        derainer = loader.derainer if loader is not None else None
        hardware = derainer.device if derainer is not None else ""
        active_for_s = time.monotonic() - self._active_since_s if self._mailbox is not None else None
        message.status = [
            diagnostics.camera_status(name, camera, active_for_s, hardware) for camera in self._cameras.values()
        ]
        if loader is not None and current is not None:
            message.status.append(diagnostics.backend_status(name, loader, current))
        message.status.append(diagnostics.process_status(name, self._state, list(self._refused.values())))
        self._diagnostics.publish(message)


def _load_derainer(current: NodeParams, max_sizes: int, stages: int) -> Derainer:
    from sapnet.derainer import Derainer

    options = {}
    if current.backend == "fake":
        options = {
            "latency_ms": current.fake_latency_ms,
            "fail_every": current.fake_fail_every,
            "mode": current.fake_mode,
        }
    return Derainer(
        current.weights,
        current.backend,
        device=current.device,
        precision=current.precision,
        stages=stages,
        max_shapes=max_sizes,
        options=options,
    )
