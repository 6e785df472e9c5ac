"""Builds engines from ONNX, for TensorRT and for TensorRT-RTX, whose Python interfaces are nearly the same.

TensorRT-RTX also builds ahead of time, for other GPUs, on a machine without one.
"""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from sapnet.backends import devices
from sapnet.backends.base import EngineShape, OnStep, failing, import_installed
from sapnet.backends.engines.build import BuildRequest
from sapnet.backends.engines.cache import EngineCache, Key
from sapnet.errors import BackendError, UnfitEngineError
from sapnet.model.deploy import DTYPES, EXAMPLE_SHAPE, DeployNet, Form, load_deploy_network
from sapnet.model.weights import find_weights

# The two libraries, by their Python modules, and how to get them.
TENSORRT, RTX = "tensorrt", "tensorrt_rtx"
_INSTALL = {
    TENSORRT: "on a Jetson: sudo apt install python3-libnvinfer; else see docs/tensorrt.md",
    RTX: "on a PC with an RTX GPU: pip install tensorrt_rtx onnx",
}
# Compute capabilities that TensorRT-RTX runs on: its support matrix, which lacks data-centre GPUs (9.0, 10.0), and 8.0,
# which its builder takes.
RTX_SUPPORTS = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
# What TensorRT-RTX builds for: one of them, or all of these.
PORTABLE, PORTABLE_ON = "portable", ((8, 6), (8, 9), (12, 0))
TARGETS = (PORTABLE, *(f"sm{major}{minor}" for major, minor in RTX_SUPPORTS))
# An engine's tensors: what goes in, and what comes out.
TENSORS = ("frames", "derained", "streaks")
# Share of the whole build that the export takes, as measured without a GPU; the rest is TensorRT's.
_EXPORTED = 0.3
# Between two reports: TensorRT steps hundreds of times a second.
_REPORT_S = 1.0
# While torch derains frames on the same GPU, single timings of kernels mislead.
_TIMINGS = 8
_FREE = {0: "batch", 1: "height", 2: "width"}
# Causes other than the engine: diagnostics of TensorRT-RTX, errors such as "Cuda Runtime (cudaError 35".
_NOT_ITS_FAULT = ("memory", "cuda")

_PACKAGE = Path(__file__).resolve().parents[2]
# The source code that decides what an engine computes.
_MODEL_CODE = ("config.py", "model/*.py", "backends/engines/build*.py")

log = logging.getLogger("sapnet")


@dataclass(frozen=True)
class OnnxRequest(BuildRequest):
    """A request for an engine that is built from ONNX. Raises BackendError for what cannot be.

    library: TENSORRT or RTX. target: of RTX, one of TARGETS. device: of TensorRT, the GPU that builds and runs it.
    """

    library: str
    target: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        if self.library == RTX and self.target not in TARGETS:
            raise BackendError(f"got target {self.target!r}, expected {', '.join(TARGETS)}")
        if (self.target, self.precision) == ("sm75", "bf16"):
            raise BackendError("got precision bf16 for sm75, which has no bf16 arithmetic; use fp16 or fp32")

    def key(self) -> Key:
        """As of all requests, and what an engine is made from and with. Raises SapnetError."""
        version = str(load_library(self.library).__version__)
        made = {**super().key(), **self._network(), "version": version}
        del made["device"]  # equal GPUs share an engine
        if self.library == TENSORRT:
            gpu = torch.device(self.device)
            # An engine of TensorRT proper is bound to them.
            made |= {**devices.place(gpu), "capability": list(torch.cuda.get_device_capability(gpu))}
        return made

    def build(self, cache: EngineCache, on_step: OnStep) -> bytes:
        """The engine of a network, for one height and width and a batch of 1 to many. Raises SapnetError."""
        on_step("exporting the network", 0.0)
        # The export serves all shapes, targets and both libraries.
        key = {"kind": "onnx", **self._network(), "precision": self.precision, "stages": self.stages}
        entry = cache.get_or_build(
            {**key, "torch": torch.__version__},
            lambda: export_onnx(load_deploy_network(self.weights, self.stages, Form.ENGINE), self.precision),
        )

        def within(step: str, share: float) -> None:
            on_step(step, _EXPORTED + (1.0 - _EXPORTED) * share)

        # TensorRT builds for the current GPU.
        with torch.cuda.device(self.device) if self.device else nullcontext():
            return build_engine(entry.data, self.shape, self.library, self.target, within)

    def _network(self) -> Key:
        weights = hashlib.sha256(find_weights(self.weights).read_bytes()).hexdigest()
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


def load_library(name: str) -> Any:
    """The module TENSORRT or RTX. Raises BackendError if it is not installed or broken."""
    library = import_installed(name, name, _INSTALL[name])
    # Once a program has imported torch-tensorrt-rtx, the name of TensorRT stands for TensorRT-RTX.
    if library.__name__ != name:
        raise BackendError(f"got {library.__name__} under the name {name}; pip uninstall torch-tensorrt-rtx")
    return library


def build_engine(
    model: bytes, shape: EngineShape, library: str, target: str, on_step: OnStep, detailed: bool = False
) -> bytes:
    """The engine of an ONNX model with uint8 (B, H, W, 3) input, in the precision that it was exported in.

    library, target: as of OnnxRequest. on_step: gets shares of this build from 0 to 1. detailed: log the kernels with
    their tensors, at level debug. Raises BackendError.
    """
    on_step("building", 0.0)
    trt = load_library(library)
    logger = shared_logger(trt)
    logger.take_error()  # of an earlier build
    builder = trt.Builder(logger)
    # TensorRT 10 has to be asked for strong typing; TensorRT 11 and RTX know nothing else, and ignore the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        faults = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise UnfitEngineError(f"{library} cannot read the exported network: {faults}")
    config = builder.create_builder_config()
    frames = network.get_input(0)
    frames.shape = (-1, shape.height, shape.width, 3)
    profile = builder.create_optimization_profile()
    profile.set_shape(frames.name, *((batch, *frames.shape[1:]) for batch in (1, shape.max_batch, shape.max_batch)))
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, but fp32 means fp32
    if library == TENSORRT:
        config.avg_timing_iterations = _TIMINGS
    elif target != PORTABLE:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0):
            raise UnfitEngineError(f"this version of TensorRT-RTX does not build for {target}; choose another target")
    if detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    monitor = _make_monitor(trt, on_step)
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise refusal(f"{library} cannot build the engine for {shape}: {logger.take_error()}")
    return bytes(engine)


@cache
def shared_logger(trt: Any) -> Any:
    """The logger of a library: forwards to ``sapnet``'s and keeps the last error.

    One per process: TensorRT keeps the first that it is given, by its address, for all that come later.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        _last_error = ""

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
            self._told = time.monotonic()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases[name] = [max(steps, 1), 0]

        def step_complete(self, name: str, step: int) -> bool:
            self._phases[name][1] = step + 1
            inside = 0.0
            for steps, done in reversed(list(self._phases.values())):
                inside = min(1.0, (done + inside) / steps)
            self._share = max(self._share, inside)  # a repeated phase would make it fall
            if (now := time.monotonic()) - self._told >= _REPORT_S:
                self._told = now
                on_step("building", self._share)
            return True

        def phase_finish(self, name: str) -> None:
            del self._phases[name]

    return Monitor()


def export_onnx(network: DeployNet, precision: str) -> bytes:
    """A serialized ONNX model whose batch, height and width are free; ``network`` is cast to ``precision``.

    TENSORS: frames, uint8 (B, H, W, 3), derained frames, of the same shape, and streaks, uint8 (B, H, W).
    precision: ``fp32``, ``bf16`` or ``fp16``, the type of the network's tensors between the casts. Takes seconds.
    Raises BackendError.
    """
    import_installed("onnx", "the exporter", "pip install onnx")
    network.network.to(DTYPES[precision])
    example = torch.zeros(EXAMPLE_SHAPE, dtype=torch.uint8)
    model = BytesIO()
    with failing("the network cannot be exported to ONNX"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            model,  # type: ignore[arg-type]
            # By tracing, which torch calls deprecated: torch.export takes six times as long for the same engine.
            dynamo=False,
            opset_version=18,
            input_names=TENSORS[:1],
            output_names=TENSORS[1:],
            dynamic_axes=dict.fromkeys(TENSORS, _FREE),
        )
    return model.getvalue()
