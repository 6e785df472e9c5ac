"""Times backends, weights and other ONNX models side by side, and compares them with what this machine can do.

That is a lower bound on a network's time: its arithmetic and memory traffic at the speeds measured here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sapnet.backends.base import BackendSpec, BuildStatus, Frames
from sapnet.backends.devices import processor_name
from sapnet.derainer import Derainer
from sapnet.errors import BackendError, first_line
from sapnet.images.frame import MIN_SIDE

if TYPE_CHECKING:
    from torch import Tensor, nn

_WARM_UP = 2
_SEED = 0
# What a device's peak is measured with.
_GEMM_SIDE = 1536
_COPIED_BYTES = 1 << 27
_REPEATS = 5


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
    """Weights on a backend; ``auto``, 0 and on_build as in BackendSpec."""

    weights: str
    backend: str
    precision: str = "auto"
    device: str = "auto"
    stages: int = 0
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
            what = derainer.weights, derainer.backend_name, derainer.precision, derainer.device, derainer.stages
            yield Running(lambda: derainer(frames), Subject(*what, _bound_ms(derainer, batch, height, width)))


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
    on_cpu = derainer.device == processor_name()
    works = count(derainer.weights, derainer.stages, derainer.precision, batch, height, width)
    return round(1000.0 * measure_peak("cpu" if on_cpu else "cuda", derainer.precision).seconds(works), 3)


def _as_input(pixels: Frames, is_real: bool) -> Frames | NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255) if is_real else pixels


@dataclass(frozen=True)
class Work:
    """Of one convolution. flop: a multiplication and an addition count as two. bytes: input, weights and output."""

    flop: int
    bytes: int


@dataclass(frozen=True)
class Peak:
    """Of a device in one precision. flop_per_s: of a matrix product. bytes_per_s: read and written by a copy."""

    flop_per_s: float
    bytes_per_s: float

    def seconds(self, works: Sequence[Work]) -> float:
        """The least time for convolutions that run one after another, all else fused into them (roofline)."""
        return sum(max(work.flop / self.flop_per_s, work.bytes / self.bytes_per_s) for work in works)


def count(weights: str, stages: int, precision: str, batch: int, height: int, width: int) -> list[Work]:
    """The convolutions of the deploy network on frames of one size. Raises CheckpointError.

    precision: ``fp32``, ``bf16`` or ``fp16``, that of the tensors between the convolutions.
    """
    import torch
    from torch import nn

    from sapnet.model.deploy import DTYPES, Form, load_deploy_network

    network = load_deploy_network(weights, stages, Form.CPU)
    scale = network.network.config.downscale
    pixels = batch * math.ceil(height / scale) * math.ceil(width / scale)
    works: list[Work] = []

    def note(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        values = pixels * (conv.in_channels + conv.out_channels) + conv.weight.numel()
        works.append(Work(2 * pixels * conv.weight.numel(), DTYPES[precision].itemsize * values))

    for module in network.modules():
        # Those of the attention work on one value of each channel.
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.register_forward_hook(note)
    with torch.inference_mode():
        # What runs how often does not depend on the size.
        network(torch.zeros(1, MIN_SIDE, MIN_SIDE, 3, dtype=torch.uint8))
    return works


@cache
def measure_peak(device: str, precision: str) -> Peak:
    """The best of several matrix products of 1536 x 1536 and of copies of 128 MB, with torch. device: as torch's."""
    import torch

    from sapnet.model.deploy import DTYPES

    a, b = (torch.rand(_GEMM_SIDE, _GEMM_SIDE, device=device).to(DTYPES[precision]) for _ in range(2))
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product_s = _shortest(lambda: torch.mm(a, b))
        copy_s = _shortest(lambda: target.copy_(source))
    return Peak(2 * _GEMM_SIDE**3 / product_s, 2 * _COPIED_BYTES / copy_s)


def _shortest(work: Callable[[], object]) -> float:
    import torch
    from torch.utils.benchmark import Timer

    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return min(timer.timeit(1).mean for _ in range(_REPEATS))
