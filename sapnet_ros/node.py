"""DerainNode: camera frames in, derained frames and streak masks out. Wiring only."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from sapnet.backends import BuildStatus
from sapnet.images.topics import DERAINED
from sapnet_ros import diagnostics, params
from sapnet_ros.camera import Camera, require_no_collisions
from sapnet_ros.diagnostics import ProcessUsage, Throttle
from sapnet_ros.dispatch import Dispatch
from sapnet_ros.loader import Loader, StageChoice, load_derainer
from sapnet_ros.params import NodeParams, ParameterError
from sapnet_ros.qos import latched_profile, reliability_chosen

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"
BUILD_LOG_S = 5.0  # between two lines on a build
BUILD_POLL_S = 0.1
LAST_WORD_TIMEOUT = Duration(seconds=0.5)
MIN_SIZES = 4  # frame sizes kept ready at once, or more where as many are configured
STOP_TIMEOUT_S = 2.0  # a frame in hand is waited for this long when the node is deactivated

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def transition_to(label: str) -> Callable[[Transition], Transition]:
    """For a transition method: keeps the node's ``state``, and logs exceptions, which rclpy swallows.

    A transition that raises is an ERROR, after which rclpy calls ``on_error``: the node is unconfigured then.
    """

    def decorate(method: Transition) -> Transition:
        @functools.wraps(method)
        def wrapped(self: Any, state: LifecycleState) -> TransitionCallbackReturn:
            try:
                result = method(self, state)
            except Exception:
                self.get_logger().error(f"{method.__name__} failed:\n{traceback.format_exc()}")
                return TransitionCallbackReturn.ERROR
            if result == TransitionCallbackReturn.SUCCESS:
                self.state = label
            return result

        return wrapped

    return decorate


class DerainNode(LifecycleNode):
    """The lifecycle node. Topics, parameters and states are described in the README."""

    def __init__(self, on_end: Callable[[int], None] = lambda code: None, **options: Any) -> None:
        """on_end: receives the exit status when the process should end. options: passed to rclpy's Node."""
        super().__init__("derain_node", **options)
        self.state = UNCONFIGURED
        self.on_end = on_end
        params.declare(self)
        self.params: NodeParams | None = None
        self._cameras: dict[str, Camera] = {}
        self._reliability_chosen = functools.cache(functools.partial(reliability_chosen, self))
        self.loader: Loader | None = None
        self._dispatch: Dispatch | None = None
        self._ready_publisher: Any = None
        self._ready_sent: bool | None = None
        self._ready_lock = Lock()
        self._services_made: list[Any] = []
        self._active_since_s = 0.0
        self._throttle = Throttle()
        self._build_throttle = Throttle(BUILD_LOG_S)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        # Steady: under use_sim_time without /clock a timer of the node's clock never fires.
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._usage = ProcessUsage()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics, clock=self.steady)
        if self.get_parameter("autostart").value:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=self.steady)

    @transition_to(INACTIVE)
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, create the publishers and start to load the network, without waiting for it."""
        try:
            self.params = current = self.read_params()
            self._cameras = {name: Camera(self, name, current) for name in current.cameras or ("",)}
            own = [self.resolve_topic_name("~/ready"), "/diagnostics"]
            require_no_collisions(self._cameras.values(), own, current)
        except ParameterError as err:
            self.get_logger().error(str(err))
            self.free()
            return TransitionCallbackReturn.FAILURE
        for camera in self._cameras.values():
            camera.advertise(current)
        self._ready_publisher = self.create_publisher(Bool, "~/ready", latched_profile())
        self._services_made.append(self.create_service(SetBool, "~/enable", self._enable_all))
        for name, camera in self._cameras.items():
            if name:
                enable = functools.partial(self._enable_one, camera)
                self._services_made.append(self.create_service(SetBool, f"~/{name}/enable", enable))
        max_sizes = max(MIN_SIZES, len(self._cameras), len(current.warmup_sizes))
        self.loader = Loader(
            functools.partial(load_derainer, current, max_sizes, self._on_build),
            _stage_choice(current),
            current.warmup_sizes,
            max_sizes,
            on_change=self._publish_ready,
        )
        self._publish_ready()
        return super().on_configure(state)

    @transition_to(ACTIVE)
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to dispatch frames, and subscribe."""
        result = super().on_activate(state)
        self._dispatch = Dispatch(self._cameras, self.loader, lambda: self.params, self._log_error)
        self._dispatch.start()
        self._active_since_s = time.monotonic()
        for camera in self._cameras.values():
            camera.subscribe(self.params, self._dispatch, self._reliability_chosen)
            image, derained = map(camera.topics.final, (camera.topics.image, camera.topics.outputs[DERAINED]))
            self.get_logger().info(f"deraining {image} to {derained}")
        return result

    @transition_to(INACTIVE)
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the frame in hand, drop queued frames."""
        self.stop()
        return super().on_deactivate(state)

    @transition_to(UNCONFIGURED)
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        self.free()
        return super().on_cleanup(state)

    @transition_to(FINALIZED)
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state to the end."""
        self.free()
        return super().on_shutdown(state)

    @transition_to(UNCONFIGURED)
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after a failed transition."""
        self.free()
        return TransitionCallbackReturn.SUCCESS

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self.state == UNCONFIGURED and not self.start():  # else somebody was faster
            self.get_logger().fatal("the node cannot start; the lines above say why")
            self.on_end(1)

    def start(self) -> bool:
        """Configure and activate; returns whether that succeeded."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def read_params(self) -> NodeParams:
        """The parameters to configure with."""
        return params.current(self)

    def _on_build(self, status: BuildStatus) -> None:
        if self.loader is not None:
            self.loader.note_build(status)
        if self._build_throttle.allow(str(status.shape)):
            self.get_logger().info(str(status))

    def stop(self) -> None:
        """Unsubscribe and end the dispatch. Every received frame is settled afterwards."""
        for camera in self._cameras.values():
            camera.unsubscribe()
        if self._dispatch is not None:
            self._dispatch.close(STOP_TIMEOUT_S)
            self._dispatch = None

    def free(self) -> None:
        """Stop, and free everything that on_configure created."""
        self.stop()
        if self.loader is not None:
            self.loader.close()
            self.loader = None
        for camera in self._cameras.values():
            camera.destroy()
        self._cameras = {}
        while self._services_made:
            self.destroy_service(self._services_made.pop())
        self._publish_ready()  # false, as there is no loader now
        with self._ready_lock:
            if self._ready_publisher is not None:
                # Destroying a publisher discards messages that are not delivered yet.
                self._ready_publisher.wait_for_all_acked(LAST_WORD_TIMEOUT)
                self.destroy_publisher(self._ready_publisher)
            self._ready_publisher = self._ready_sent = None
        # rclpy keeps a weak reference to every entity that ever was: a node that is configured often would grow.
        group = self.default_callback_group
        group.entities = {entity for entity in group.entities if entity() is not None}
        self.params = None

    def _log_error(self, kind: str, text: str) -> None:
        if self._throttle.allow(kind):
            self.get_logger().error(text)

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            params.require_allowed(self, changes, configured=self.params is not None)
        except ParameterError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, changes: list[Parameter]) -> None:
        if self.params is None:
            return
        old, self.params = self.params, params.current(self)
        changed = (self.params.stages, self.params.target_hz) != (old.stages, old.target_hz)
        if self.loader is not None and changed:
            self.loader.choose_stages(_stage_choice(self.params))
        self._wake_dispatch()

    def _wake_dispatch(self) -> None:
        if self._dispatch is not None:
            self._dispatch.wake()

    def _enable_all(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self.set_parameters([Parameter("enabled", value=request.data)])[0]
        response.success, response.message = result.successful, result.reason
        return response

    def _enable_one(self, camera: Camera, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        camera.enabled = request.data
        self._wake_dispatch()
        response.success = True
        return response

    def _publish_ready(self) -> None:
        with self._ready_lock:
            ready = self.loader is not None and self.loader.ready
            if self._ready_publisher is not None and ready != self._ready_sent:
                self._ready_publisher.publish(Bool(data=ready))
                self._ready_sent = ready

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        active_for_s = time.monotonic() - self._active_since_s if self.state == ACTIVE else None
        name, current, problem = self.get_fully_qualified_name(), self.params, ""
        if current is not None:
            for camera in self._cameras.values():
                if active_for_s is not None:
                    camera.look_around()
                message.status.append(diagnostics.camera_status(name, camera, active_for_s, current))
            if self.loader is not None:
                message.status.append(diagnostics.backend_status(name, self.loader, current))
        else:
            try:
                self.read_params()
            except ParameterError as err:
                problem = str(err)
        message.status.append(diagnostics.process_status(name, self.state, problem, self._usage))
        self._diagnostics.publish(message)


def _stage_choice(current: NodeParams) -> StageChoice:
    return StageChoice(current.stages, current.target_hz * max(1, len(current.cameras)))


class BuildNode(DerainNode):
    """Builds the engines of ``warmup_sizes`` with the parameters of derain_node, derains nothing, and ends."""

    def start(self) -> bool:
        """Configure, which starts the builds, and wait for them; returns whether it could be configured."""
        self._timer = self.create_timer(BUILD_POLL_S, self._end_when_built, clock=self.steady)
        return self.trigger_configure() == TransitionCallbackReturn.SUCCESS

    def read_params(self) -> NodeParams:
        """Those of the node, which must name sizes; ``auto`` means the backend that builds engines."""
        current = super().read_params()
        if not current.warmup_sizes:
            raise ParameterError("set warmup_sizes to the frame sizes that engines are to be built for")
        return replace(current, backend="tensorrt") if current.backend == "auto" else current

    def _end_when_built(self) -> None:
        if self.loader is None:
            return  # somebody has taken the node down
        if error := self.loader.error:
            self.get_logger().fatal(error)
        elif self.loader.ready:
            self.get_logger().info("all engines are ready")
        else:
            return
        self._timer.cancel()
        self.on_end(1 if error else 0)
