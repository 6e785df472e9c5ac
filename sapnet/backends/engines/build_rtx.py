"""Builds TensorRT-RTX engines from ONNX: on the vehicle, or ahead of time on a machine that needs no GPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from sapnet.backends.engines.key import EngineShape, OnProgress, Progress
from sapnet.errors import BackendError

INSTALL = "pip install tensorrt_rtx"
PORTABLE, CURRENT = "portable", "current"
# What an engine can be built for, and the compute capability of that name; a portable one runs on PORTABLE_ON.
AHEAD_OF_TIME_TARGETS = (PORTABLE, *(f"sm{number}" for number in (75, 80, 86, 89, 120, 121)))
TARGETS: Mapping[str, str] = MappingProxyType(
    {**{name: name.upper() for name in (*AHEAD_OF_TIME_TARGETS, CURRENT)}, PORTABLE: ""}
)
PORTABLE_ON = ((8, 6), (8, 9), (12, 0))

log = logging.getLogger("sapnet")


def load_library() -> Any:
    """The module ``tensorrt_rtx``. Raises BackendError where it is not installed or broken."""
    try:
        import tensorrt_rtx
    # A library that is there but broken raises OSError from its shared objects.
    except (ImportError, OSError) as err:
        raise BackendError(f"TensorRT-RTX cannot be loaded ({err}); install it: {INSTALL}") from err
    return tensorrt_rtx


def version() -> str:
    """Of TensorRT-RTX. An engine runs with the version that built it alone. Raises BackendError."""
    return str(load_library().__version__)


def own_target(capability: tuple[int, int]) -> str:
    """The target that a GPU builds for itself: the one of its compute capability, else whatever it is."""
    name = f"sm{capability[0]}{capability[1]}"
    return name if name in TARGETS else CURRENT


def require_target(target: str, precision: str) -> None:
    """Refuse a target that there is not, or that cannot run the precision. Raises BackendError."""
    if target not in TARGETS:
        raise BackendError(f"got target {target!r}, expected {', '.join(TARGETS)}")
    if (target, precision) == ("sm75", "bf16"):
        raise BackendError("got precision bf16 for sm75, which has no bf16 arithmetic; use fp16 or fp32")


def build(model: bytes, shape: EngineShape, precision: str, target: str, on_progress: OnProgress) -> bytes:
    """The engine of an ONNX model with uint8 (B, H, W, 3) input, for one height and width and a batch of 1 to many.

    precision: what ``model`` was exported in; RTX networks are strongly typed, so the tensors' own types hold.
    target: one of TARGETS. on_progress: gets shares of this build from 0 to 1. Raises BackendError.
    """
    require_target(target, precision)
    trt = load_library()
    logger = shared_logger(trt)
    logger.take_error()  # of an earlier build
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        faults = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BackendError(f"TensorRT-RTX cannot read the exported network: {faults}")
    config = builder.create_builder_config()
    _set_shape(builder, network, config, shape)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; fp32 is to mean fp32
    if TARGETS[target]:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, TARGETS[target]), 0)
    monitor = _make_monitor(trt, on_progress)
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(f"TensorRT-RTX cannot build the engine for {shape}: {logger.take_error()}")
    return bytes(engine)


def _set_shape(builder: Any, network: Any, config: Any, shape: EngineShape) -> None:
    frames = network.get_input(0)
    frames.shape = (-1, shape.height, shape.width, 3)
    sizes = [(batch, shape.height, shape.width, 3) for batch in (1, shape.max_batch, shape.max_batch)]
    profile = builder.create_optimization_profile()
    profile.set_shape(frames.name, *sizes)
    config.add_optimization_profile(profile)


@cache
def shared_logger(trt: Any) -> Any:
    """The logger for one of TensorRT's flavours, which passes on to ``sapnet``'s and keeps the last error.

    One for the process: TensorRT uses the first that it gets, by its address, for all that come later.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                # Raised as a BackendError by whoever asked: said once.
                self._last_error = message
            log.debug("TensorRT: %s", message)

        def take_error(self) -> str:
            """The last error, which is told once."""
            said, self._last_error = self._last_error, ""
            return said or "no reason given"

    return Logger()


class PhaseTree:
    """The share of a build that is done, from phases which consist of steps, one of which may be a phase again."""

    def __init__(self) -> None:
        self._phases: dict[str, list[Any]] = {}  # name -> parent's name, steps, steps done

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._phases[name] = [parent, max(steps, 1), 0]

    def step(self, name: str, number: int) -> None:
        """Step ``number``, from 0, of a phase is done."""
        if name in self._phases:
            self._phases[name][2] = number + 1

    def finish(self, name: str) -> None:
        """A phase ends, with all of its steps or without; its parent says what that is worth."""
        self._phases.pop(name, None)

    @property
    def share(self) -> float:
        """Of the phase without a parent, 0 to 1."""
        roots = [name for name, (parent, _, _) in self._phases.items() if parent not in self._phases]
        return self._share(roots[-1]) if roots else 0.0

    def _share(self, name: str) -> float:
        _, steps, done = self._phases[name]
        children = [child for child, (parent, _, _) in self._phases.items() if parent == name]
        inside = self._share(children[-1]) if children else 0.0
        return float(min(1.0, (done + inside) / steps))


def _make_monitor(trt: Any, on_progress: OnProgress) -> Any:
    tree, told = PhaseTree(), [0.0]

    def tell() -> None:
        # Subphases that come again would let it fall.
        told[0] = max(told[0], tree.share)
        on_progress(Progress("building", told[0]))

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            tree.start(name, parent, steps)
            tell()

        def step_complete(self, name: str, step: int) -> bool:
            tree.step(name, step)
            tell()
            return True

        def phase_finish(self, name: str) -> None:
            tree.finish(name)

    return Monitor()
