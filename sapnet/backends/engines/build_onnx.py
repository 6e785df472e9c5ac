"""Builds engines from ONNX, for TensorRT-RTX and for TensorRT, whose Python interfaces are nearly the same.

TensorRT-RTX also builds ahead of time, for other GPUs, on a machine without one.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from sapnet.backends import devices
from sapnet.backends.base import EngineShape, OnStep
from sapnet.backends.engines.build import BuildRequest
from sapnet.backends.engines.cache import EngineCache, Key
from sapnet.errors import BackendError, UnfitEngineError, first_line
from sapnet.model import DeployNet
from sapnet.model.deploy import DTYPES, FOR_ENGINE, load_deploy_network
from sapnet.model.weights import find_weights

RTX, TENSORRT = "rtx", "tensorrt"
PORTABLE, CURRENT = "portable", "current"
# What an engine can be built for ahead of time, and the compute capability of that name.
AHEAD_OF_TIME_TARGETS = (PORTABLE, *(f"sm{number}" for number in (75, 80, 86, 89, 120, 121)))
TARGETS: Mapping[str, str] = MappingProxyType(
    {**{name: name.upper() for name in (*AHEAD_OF_TIME_TARGETS, CURRENT)}, PORTABLE: ""}
)
PORTABLE_ON = ((8, 6), (8, 9), (12, 0))
# The export is Python and takes longest; the rest is TensorRT's. Shares of the whole build, as measured.
_EXPORTED, _BUILT = 0.6, 0.95
# While torch derains frames on the same GPU, single timings of kernels mislead.
TIMINGS = 8
# Odd and with more than one frame, so that no size of the example can pass for a constant of the network.
_EXAMPLE_SHAPE = (2, 33, 46, 3)

# Causes other than the engine: diagnostics of TensorRT-RTX, errors such as "Cuda Runtime (cudaError 35".
_NOT_ITS_FAULT = (
    "out of memory",
    "outofmemory",
    "gpu memory",
    "cuda runtime",
    "cuda error",
    "cudaerror",
    "cuda driver",
)

_PACKAGE = Path(__file__).resolve().parents[2]
# The source code that decides what an engine computes.
_MODEL_CODE = ("config.py", "model/*.py", "backends/engines/build*.py")

log = logging.getLogger("sapnet")


@dataclass(frozen=True)
class Flavour:
    """What differs between the two libraries.

    module: the Python module. install: how to get it. supports: compute capabilities it runs on, empty for any.
    """

    module: str
    install: str
    supports: tuple[tuple[int, int], ...] = ()


FLAVOURS: Mapping[str, Flavour] = MappingProxyType(
    {
        RTX: Flavour(
            "tensorrt_rtx",
            "pip install tensorrt_rtx onnx onnxscript",
            # Its support matrix, which lacks data-centre GPUs (9.0, 10.0), and 8.0, which its builder takes.
            ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)),
        ),
        TENSORRT: Flavour("tensorrt", "on a Jetson: sudo apt install python3-libnvinfer; else see docs/tensorrt.md"),
    }
)


def load_library(flavour: str) -> Any:
    """The module of a flavour. Raises BackendError if it is not installed or broken."""
    name = FLAVOURS[flavour].module
    try:
        library = import_module(name)
    # A broken installation raises OSError from its shared objects.
    except (ImportError, OSError) as err:
        raise BackendError(f"{name} cannot be loaded ({err}); install it: {FLAVOURS[flavour].install}") from err
    # torch-tensorrt-rtx puts TensorRT-RTX in the place of TensorRT.
    if library.__name__ != name:
        raise BackendError(f"got {library.__name__} under the name {name}; pip uninstall torch-tensorrt-rtx")
    return library


def require_capability(flavour: str, capability: tuple[int, int], device: str) -> None:
    """Raise BackendError for a GPU that the flavour does not support."""
    supports = FLAVOURS[flavour].supports
    if supports and capability not in supports:
        known = ", ".join(f"{major}.{minor}" for major, minor in supports)
        raise BackendError(
            f"TensorRT-RTX does not support the compute capability {capability[0]}.{capability[1]} of {device}, "
            f"expected {known}; use backend 'torch', or TensorRT where it is installed"
        )


def own_target(capability: tuple[int, int]) -> str:
    """The target that a GPU builds for itself: the one of its compute capability, else ``current``."""
    name = f"sm{capability[0]}{capability[1]}"
    return name if name in TARGETS else CURRENT


def require_target(target: str, precision: str) -> None:
    """Raise BackendError for an unknown target, or one that cannot run the precision."""
    if target not in TARGETS:
        raise BackendError(f"got target {target!r}, expected {', '.join(TARGETS)}")
    if (target, precision) == ("sm75", "bf16"):
        raise BackendError("got precision bf16 for sm75, which has no bf16 arithmetic; use fp16 or fp32")


def origin(request: BuildRequest) -> Key:
    """What an engine is made from and with. Raises SapnetError."""
    flavour = request.options["flavour"]
    made = {"flavour": flavour, **network_origin(request), "version": str(load_library(flavour).__version__)}
    if flavour == RTX:
        return {**made, "target": request.options["target"]}
    return {**made, **built_on(request.options["device"])}


def network_origin(request: BuildRequest) -> Key:
    """The network behind an engine. Raises CheckpointError."""
    weights = hashlib.sha256(find_weights(request.weights).read_bytes()).hexdigest()
    return {"weights": weights, "code": model_code_version()}


@cache
def model_code_version() -> str:
    """A digest of the source that decides what an engine computes; a change leads to a new engine."""
    digest = hashlib.sha256()
    for pattern in _MODEL_CODE:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(f"{path.relative_to(_PACKAGE)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def built_on(device: str) -> Key:
    """The GPU and driver that an engine of TensorRT proper is bound to."""
    gpu = torch.device(device)
    return {**devices.place(gpu), "capability": list(torch.cuda.get_device_capability(gpu))}


def build(request: BuildRequest, cache: EngineCache, on_step: OnStep) -> bytes:
    """The engine of a network, for one height and width and a batch of 1 to many. Raises SapnetError."""
    on_step("exporting the network", 0.0)
    model = _cached_export(request, cache)

    def within(step: str, share: float) -> None:
        on_step(step, _EXPORTED + (_BUILT - _EXPORTED) * share)

    options = request.options
    return build_engine(model, request.shape, request.precision, options["flavour"], options.get("target", ""), within)


def build_engine(
    model: bytes,
    shape: EngineShape,
    precision: str,
    flavour: str,
    target: str,
    on_step: OnStep,
    detailed: bool = False,
) -> bytes:
    """The engine of an ONNX model with uint8 (B, H, W, 3) input.

    precision: what ``model`` was exported in; networks are strongly typed, so the tensors' own types hold.
    target: one of TARGETS, of RTX alone. on_step: gets shares of this build from 0 to 1. detailed: log the kernels with
    their tensors, at level debug. Raises BackendError.
    """
    if flavour == RTX:
        require_target(target, precision)
    trt = load_library(flavour)
    logger = shared_logger(trt)
    logger.take_error()  # of an earlier build
    builder = trt.Builder(logger)
    # TensorRT 10 has to be asked for strong typing; in TensorRT 11 and RTX all networks are strongly typed.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flavour == RTX or typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        faults = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise UnfitEngineError(f"{trt.__name__} cannot read the exported network: {faults}")
    config = builder.create_builder_config()
    _set_shape(builder, network, config, shape)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, but fp32 means fp32
    if flavour == RTX:
        _set_target(trt, config, target)
    else:
        config.avg_timing_iterations = TIMINGS
    if detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    monitor = _make_monitor(trt, on_step)
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise refusal(f"{trt.__name__} cannot build the engine for {shape}: {logger.take_error()}")
    return bytes(engine)


def _set_target(trt: Any, config: Any, target: str) -> None:
    if TARGETS[target]:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, TARGETS[target]), 0):
            raise UnfitEngineError(f"this version of TensorRT-RTX does not build for {target}; choose another target")


def _set_shape(builder: Any, network: Any, config: Any, shape: EngineShape) -> None:
    frames = network.get_input(0)
    frames.shape = (-1, shape.height, shape.width, 3)
    sizes = [(batch, shape.height, shape.width, 3) for batch in (1, shape.max_batch, shape.max_batch)]
    profile = builder.create_optimization_profile()
    profile.set_shape(frames.name, *sizes)
    config.add_optimization_profile(profile)


@cache
def shared_logger(trt: Any) -> Any:
    """The logger of a flavour: forwards to ``sapnet``'s and keeps the last error.

    One per process: TensorRT keeps the first that it is given, by its address, for all that come later.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                # The caller raises it as a BackendError.
                self._last_error = message
            log.debug("TensorRT: %s", message)

        def take_error(self) -> str:
            """Return the last error and forget it."""
            said, self._last_error = self._last_error, ""
            return said or "no reason given"

    return Logger()


def refusal(said: str) -> BackendError:
    """The error for an engine that TensorRT refuses: UnfitEngineError, unless memory or the driver is the cause."""
    others = any(words in said.lower() for words in _NOT_ITS_FAULT)
    return BackendError(said) if others else UnfitEngineError(said)


def _make_monitor(trt: Any, on_step: OnStep) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the share of the outermost phase that is done; a step of a phase may be a phase of its own."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, list[int]] = {}  # open ones, the outermost first: steps, steps done
            self._share = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases[name] = [max(steps, 1), 0]
            self._tell()

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._phases:
                self._phases[name][1] = step + 1
                self._tell()
            return True

        def phase_finish(self, name: str) -> None:
            self._phases.pop(name, None)

        def _tell(self) -> None:
            inside = 0.0
            for steps, done in reversed(list(self._phases.values())):
                inside = min(1.0, (done + inside) / steps)
            # A repeated subphase would make it fall.
            self._share = max(self._share, inside)
            on_step("building", self._share)

    return Monitor()


def _cached_export(request: BuildRequest, cache: EngineCache) -> bytes:
    """The exported network, which serves all shapes, targets and flavours: from the cache, else stored there."""
    key = {
        "kind": "onnx",
        **network_origin(request),
        "stages": request.stages,
        "precision": request.precision,
        "torch": torch.__version__,
    }

    def make() -> tuple[bytes, Key]:
        network = load_deploy_network(request.weights, request.stages, FOR_ENGINE)
        return export_onnx(network, request.precision), {}

    return cache.get_or_build(key, make).data


def export_onnx(network: DeployNet, precision: str) -> bytes:
    """A serialized ONNX model whose batch, height and width are free; ``network`` is left as it is.

    Input uint8 (B, H, W, 3); outputs uint8 (B, H, W, 3) and (B, H, W). precision: ``fp32``, ``bf16`` or ``fp16``, the
    type of the network's tensors between the casts. Takes some ten seconds of Python. Raises BackendError.
    """
    try:
        from onnxscript import optimizer
    except ImportError as err:
        raise BackendError(f"the network cannot be exported ({err}); install it: pip install onnx onnxscript") from err
    # It prints advice for the exporter's maintainers.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(_EXAMPLE_SHAPE, dtype=torch.uint8)
    try:
        program = export(network, precision, example, {0: Dim.AUTO, 1: Dim.AUTO, 2: Dim.AUTO})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
    except RuntimeError as err:  # what all of the exporter's own errors are
        raise BackendError(f"the network cannot be exported to ONNX: {first_line(err)}") from err
    assert model is not None
    # Of torch's optimization what TensorRT's parser needs: the rest takes longer than the export, and TensorRT does it.
    optimizer.inline(model.model)
    optimizer.fold_constants(model.model)
    optimizer.remove_unused_nodes(model.model)
    return bytes(model.model_proto.SerializeToString())


def export(network: DeployNet, precision: str, example: Tensor, sizes: dict[int, Any] | None) -> ExportedProgram:
    """A copy of ``network`` in ``precision``, exported on the example's device. sizes: those that are free."""
    network = copy.deepcopy(network).to(example.device).requires_grad_(False)
    network.network.to(DTYPES[precision])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (example,), dynamic_shapes=(sizes,) if sizes else None)
