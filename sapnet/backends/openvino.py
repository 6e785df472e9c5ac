"""OpenVINO on the CPU: the fastest there, where it has bf16 above all."""

from __future__ import annotations

import sys
import threading
import warnings
from dataclasses import dataclass, field
from functools import cache

import torch

from sapnet.backends.base import Backend, BackendSpec, EngineShape, Frames, Runner
from sapnet.backends.devices import processor_name
from sapnet.errors import BackendError
from sapnet.model.deploy import EXAMPLE_SHAPE, DeployNet, Form, load_deploy_network

# When imported, OpenVINO reports that to its makers and keeps an identity for it in the home folder, unless its
# telemetry package is absent. A vehicle reports nothing unasked.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402


@dataclass(frozen=True)
class _Compiled(Runner):
    """A network compiled for one shape. Its one request serves one caller at a time: it has all cores anyway."""

    shape: EngineShape  # its batch is exact
    request: ov.InferRequest
    lock: threading.Lock = field(default_factory=threading.Lock)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """As ``Backend.infer``."""
        try:
            with self.lock:
                outputs = self.request.infer([frames], share_inputs=True, share_outputs=False)
        except (RuntimeError, MemoryError) as err:
            size = f"{self.shape.height}x{self.shape.width}"
            raise BackendError(f"OpenVINO failed on {len(frames)} frame(s) of {size}: {err}") from err
        return outputs[0], outputs[1]


class OpenVinoBackend(Backend):
    """The deploy network compiled for each shape (batch, height, width), the last ``max_shapes`` of them kept.

    The conversion from torch takes seconds and is done once, with free sizes; a shape is a copy with sizes set.
    Raises BackendError, CheckpointError.
    """

    name = "openvino"
    exact_batch = True

    def __init__(self, spec: BackendSpec) -> None:
        super().__init__(spec)
        self.precision = choose_precision(spec)
        self.device = processor_name()
        network = load_deploy_network(spec.weights, spec.stages, Form.OPENVINO)
        self.stages = network.network.config.stages
        self._network = network
        self._model: ov.Model | None = None
        self._compiling = threading.Lock()

    def close(self) -> None:
        """Free what was compiled and converted; does not wait for a compilation under way."""
        super().close()
        self._model = None

    def _make(self, shape: EngineShape) -> _Compiled:
        height, width, batch = shape
        try:
            with self._compiling:
                converted = self._model = self._model or convert(self._network)
                model = converted.clone()
                model.reshape([batch, height, width, 3])
                request = compile_model(model, self.precision, self._spec.threads).create_infer_request()
        except (RuntimeError, MemoryError) as err:
            raise BackendError(f"OpenVINO cannot compile for {batch} frame(s) of {height}x{width}: {err}") from err
        return _Compiled(shape, request)


@cache
def core() -> ov.Core:
    """One for the process, kept to its end.

    OpenVINO gives the thread that first uses a Core a stack for signal handlers of its own and, where Cores come and
    go, leaves the thread with one that is freed: the next Ctrl-C or SIGTERM would crash the process.
    """
    return ov.Core()


def compile_model(model: ov.Model, precision: str, threads: int = 0) -> ov.CompiledModel:
    """Compile for low latency on the CPU. threads: 0 for all. Raises RuntimeError, as OpenVINO does."""
    hints: dict[str, str | int | bool] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
    }
    if threads:
        hints["INFERENCE_NUM_THREADS"] = threads
        # It would pin them to the first cores, where those of every other process are too.
        hints["ENABLE_CPU_PINNING"] = False
    return core().compile_model(model, "CPU", hints)


def convert(network: DeployNet) -> ov.Model:
    """The network as OpenVINO's, its batch, height and width free."""
    example = torch.zeros(EXAMPLE_SHAPE, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        # OpenVINO's own way in is torch.jit.trace, which newer versions of torch call deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Checking the trace takes as long as all the rest, and parity is tested.
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    return ov.convert_model(traced, input=[-1, -1, -1, 3])


def choose_precision(spec: BackendSpec) -> str:
    """The precision that ``spec`` asks for. Raises BackendError for what OpenVINO cannot do on this processor."""
    if spec.device not in ("auto", "cpu"):
        raise BackendError(
            f"backend 'openvino' runs on the CPU, got device {spec.device!r}; use device 'cpu', or another backend"
        )
    has_bf16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    possible = ["bf16", "fp32"] if has_bf16 else ["fp32"]
    precision = possible[0] if spec.precision == "auto" else spec.precision
    if precision not in possible:
        raise BackendError(
            f"got precision {spec.precision!r}, but backend 'openvino' runs {' or '.join(possible)} on this processor "
            f"({processor_name()}); use one of these, or backend 'torch'"
        )
    return precision
