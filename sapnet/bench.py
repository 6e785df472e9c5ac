"""Times backends, weights and other ONNX models side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sapnet.backends.base import BackendSpec, BuildStatus, Frames
from sapnet.backends.devices import processor_name
from sapnet.derainer import Derainer
from sapnet.errors import BackendError, first_line

_WARM_UP = 2
_SEED = 0


@dataclass(frozen=True)
class Subject:
    """What runs. stages: None for other networks. bound_ms: lower bound of a call's time here; None if unknown."""

    weights: str
    backend: str
    precision: str
    device: str
    stages: int | None
    bound_ms: float | None


@dataclass(frozen=True)
class Running:
    """A contender that is ready: ``call`` runs it once."""

    call: Callable[[], object]
    subject: Subject


class Contender(Protocol):
    """Something that can be timed."""

    def run(self, noise: Frames) -> Iterator[Running]:
        """Make it ready for uint8 (B, H, W, 3) noise; freed when the iterator is closed. Raises SapnetError."""
        ...


@dataclass(frozen=True)
class Candidate:
    """Weights on a backend; ``auto``, 0 and on_build as in BackendSpec. bound: whether to find the least time."""

    weights: str
    backend: str
    precision: str = "auto"
    device: str = "auto"
    stages: int = 0
    bound: bool = False
    on_build: Callable[[BuildStatus], None] = field(default=lambda status: None, compare=False)

    def run(self, noise: Frames) -> Iterator[Running]:
        """Load the weights and compile for the frames' size."""
        batch, height, width, _ = noise.shape
        frames = list(noise)
        with Derainer(
            self.weights,
            self.backend,
            device=self.device,
            precision=self.precision,
            stages=self.stages,
            on_build=self.on_build,
        ) as derainer:
            derainer.prepare(height, width, batch)
            bound_ms = _bound_ms(derainer, batch, height, width) if self.bound else None
            what = derainer.weights, derainer.backend_name, derainer.precision, derainer.device, derainer.stages
            yield Running(lambda: derainer(frames), Subject(*what, bound_ms))


@dataclass(frozen=True)
class OnnxModel:
    """Any ONNX model of one image input, as OpenVINO or onnxruntime runs it on the CPU.

    runtime: ``openvino`` or ``onnxruntime``. layout: ``nchw`` or ``nhwc``. precision: as of backend ``openvino``;
    onnxruntime runs the model as it is. A floating-point input gets values in [0, 1].
    """

    path: Path
    runtime: str
    layout: str = "nchw"
    precision: str = "auto"

    def run(self, noise: Frames) -> Iterator[Running]:
        """Load and compile the model for the frames' size. Raises BackendError."""
        pixels = np.ascontiguousarray(noise.transpose(0, 3, 1, 2) if self.layout == "nchw" else noise)
        load = {"openvino": self._openvino, "onnxruntime": self._onnxruntime}[self.runtime]
        try:
            call, precision = load(pixels)
            call()
        except ImportError as err:
            raise BackendError(f"{self.runtime} is not installed: pip install {self.runtime}") from err
        except (RuntimeError, ValueError) as err:
            raise BackendError(
                f"{self.path}: {self.runtime} cannot run it on {self.layout} {pixels.shape}: {first_line(err)}; "
                "give the --shape and --layout that the model was exported for"
            ) from err
        yield Running(call, Subject(str(self.path), self.runtime, precision, processor_name(), None, None))

    def _openvino(self, pixels: Frames) -> tuple[Callable[[], object], str]:
        from sapnet.backends import openvino

        precision = openvino.choose_precision(BackendSpec(device="cpu", precision=self.precision))
        model = openvino.core().read_model(self.path)
        (image,) = model.inputs
        wanted = zip(image.get_partial_shape(), pixels.shape, strict=True)
        if not all(own.is_dynamic or own.get_length() == side for own, side in wanted):
            raise RuntimeError(f"the model takes {image.get_partial_shape()}")
        model.reshape(list(pixels.shape))
        data = _as_input(pixels, image.get_element_type().is_real())
        request = openvino.compile_model(model, precision).create_infer_request()
        return lambda: request.infer([data], share_inputs=True), precision

    def _onnxruntime(self, pixels: Frames) -> tuple[Callable[[], object], str]:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        try:
            session = onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])
            (image,) = session.get_inputs()
            inputs = {image.name: _as_input(pixels, image.type == "tensor(float)")}
            session.run(None, inputs)
        except (errors.Fail, errors.InvalidArgument, errors.InvalidProtobuf, errors.NoSuchFile) as err:
            raise RuntimeError(err) from err
        return lambda: session.run(None, inputs), "fp32"


@dataclass(frozen=True)
class Timing(Subject):
    """The timing of one contender.

    p5_ms, p50_ms, p95_ms: of a call with a whole batch. fps: frames per second at p50. ratio: how many times as fast as
    the first contender, the median over turns. of_bound: the share of bound_ms in p50_ms; None where unknown.
    """

    p5_ms: float
    p50_ms: float
    p95_ms: float
    fps: float
    ratio: float
    of_bound: float | None


def measure(
    contenders: Sequence[Contender],
    height: int,
    width: int,
    batch: int = 1,
    frames: int = 20,
    on_step: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time ``frames`` calls of every contender, each with ``batch`` frames of noise, in the contenders' order.

    They take turns call by call, so that other load on the machine slows all of them alike.
    on_step: called after the warm-up and after each call of a contender. Raises SapnetError.
    """
    noise = np.random.default_rng(_SEED).integers(0, 256, (batch, height, width, 3), np.uint8)
    with ExitStack() as stack:
        running = [stack.enter_context(contextmanager(contender.run)(noise)) for contender in contenders]
        for one in running:
            for _ in range(_WARM_UP):
                one.call()
            on_step()
        seconds = np.empty((frames, len(running)))
        for turn in range(frames):
            for index, one in enumerate(running):
                started = time.perf_counter()
                one.call()
                seconds[turn, index] = time.perf_counter() - started
                on_step()
    percentiles = np.percentile(seconds * 1000.0, (5, 50, 95), axis=0).T
    ratios = np.median(seconds[:, :1] / seconds, axis=0)
    return [
        Timing(
            **vars(one.subject),
            p5_ms=round(float(p5), 3),
            p50_ms=round(float(p50), 3),
            p95_ms=round(float(p95), 3),
            fps=round(float(batch * 1000.0 / p50), 2),
            ratio=round(float(ratio), 3),
            of_bound=None if one.subject.bound_ms is None else round(one.subject.bound_ms / float(p50), 3),
        )
        for one, (p5, p50, p95), ratio in zip(running, percentiles, ratios, strict=True)
    ]


def _bound_ms(derainer: Derainer, batch: int, height: int, width: int) -> float | None:
    if derainer.backend_name == "fake":
        return None
    from sapnet.bound import count, measure_peak

    on_cpu = derainer.device == processor_name()
    works = count(BackendSpec(derainer.weights, stages=derainer.stages), derainer.precision, batch, height, width)
    return round(1000.0 * measure_peak("cpu" if on_cpu else "cuda", derainer.precision).seconds(works), 3)


def _as_input(pixels: Frames, is_real: bool) -> Frames | NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255) if is_real else pixels
