"""Milliseconds per frame on a GPU, of engines, of torch without them, and a bound: ``engines.py gpu`` prints them."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from tables import print_head, print_row
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sapnet.backends import BackendSpec, create_backend, devices
from sapnet.backends.cuda_runner import CudaRunner
from sapnet.errors import SapnetError, first_line
from sapnet.model import DeployNet
from sapnet.model.deploy import DTYPES, load_deploy_network

WARM_UP = 20
DEVICE = torch.device("cuda", 0)
HEADS = ("eager fp32", "eager fp16 channels_last", "CUDA graphs fp16", "torch.compile fp16", "TensorRT fp16", "bound")

Call = Callable[[], object]
Size = tuple[int, ...]


def print_speed(presets: list[str], sizes: list[Size], batches: list[int], calls: int) -> None:
    """One row for each preset, size and batch: p50 / p95 in ms per frame, frames on the GPU; then from host to host."""
    timer = Timer(calls)
    if not torch.cuda.is_available():
        raise SystemExit(f"needs an NVIDIA GPU and a CUDA build of torch; this torch {torch.__version__} finds none")
    bandwidth = copy_bandwidth(timer)
    name = torch.cuda.get_device_name(DEVICE)
    print(
        f"{name}, {devices.driver_version()}; copies of its memory at {bandwidth / 1e9:.0f} GB/s (read and written)\n"
    )
    print_head("preset", "size", "batch", *HEADS, "TensorRT, host to host", "pinned copies")
    for preset, (height, width), batch in product(presets, sizes, batches):
        print_row(
            f"`{preset}`", f"{height}x{width}", str(batch), *measure(preset, (batch, height, width), bandwidth, timer)
        )


def measure(preset: str, shape: tuple[int, int, int], bandwidth: float, timer: Timer) -> list[str]:
    """The cells of a row; one that fails says why, and the others still count."""
    # torch.compile stops at its recompile limit, and runs eager from then on without a word.
    torch.compiler.reset()
    torch.cuda.empty_cache()
    batch = shape[0]
    spec = BackendSpec(preset, "cuda", "fp16", max_batch=batch)
    frames = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, device=DEVICE)

    def eager(precision: str) -> str:
        network = on_gpu(preset, precision)
        with devices.without_tf32():
            return say(timer.on_gpu(lambda: network(frames)), batch)

    def compiled() -> str:
        network = torch.compile(on_gpu(preset, "fp16"), mode="reduce-overhead", dynamic=False)
        return say(timer.on_gpu(lambda: network(frames)), batch)

    def bound() -> str:
        return f"{bound_ms(on_gpu(preset, 'fp16'), frames, bandwidth, timer) / batch:.2f}"

    with torch.inference_mode():
        cells = [attempt(lambda: eager("fp32")), attempt(lambda: eager("fp16"))]
        cells += [attempt(lambda: of_backend("torch", spec, shape, timer)[0]), attempt(compiled)]
        tensorrt = attempt(lambda: "\n".join(of_backend("tensorrt", spec, shape, timer))).split("\n")
        copies = attempt(lambda: say(time_copies(frames, timer), batch))
        return [*cells, tensorrt[0], attempt(bound), tensorrt[-1], copies]


def on_gpu(preset: str, precision: str) -> DeployNet:
    """The network as eager torch runs it fastest."""
    network = load_deploy_network(preset)
    network.network.to(DTYPES[precision])
    return network.to(memory_format=torch.channels_last).to(DEVICE)  # type: ignore[call-overload, no-any-return]


def of_backend(name: str, spec: BackendSpec, shape: tuple[int, int, int], timer: Timer) -> tuple[str, str]:
    """Of a backend's own runner: with frames on the GPU, and from host to host."""
    batch, height, width = shape
    with closing(create_backend(name, spec)) as backend:
        backend.prepare(*shape)
        find: Any = backend._get if name == "torch" else backend._ready  # type: ignore[attr-defined]
        runner = find(*shape)
        cuda: CudaRunner = runner if name == "torch" else runner._runner
        enqueue = cuda._enqueue
        assert enqueue is not None
        with torch.cuda.stream(cuda._stream):
            resident = timer.on_gpu(lambda: cuda._run(batch, enqueue))
        frames = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
        return say(resident, batch), say(timer.on_host(lambda: backend.infer(frames)), batch)


def attempt(work: Callable[[], str]) -> str:
    """What ``work`` gives, or why it cannot, for the table."""
    try:
        return work()
    # A compiler that is missing, an engine that is refused, memory that runs out: the other cells still count.
    except (SapnetError, RuntimeError) as err:
        return first_line(err).replace("|", "/")


@dataclass(frozen=True)
class Timer:
    """Milliseconds of each of so many calls, after some that do not count."""

    calls: int

    def on_gpu(self, call: Call) -> list[float]:
        """Of calls that enqueue work on the current stream."""
        for _ in range(WARM_UP):
            call()
        times = []
        for _ in range(self.calls):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            call()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended))
        return times

    def on_host(self, call: Call) -> list[float]:
        """Of calls that wait for their end."""
        times = []
        for _ in range(WARM_UP + self.calls):
            began = time.perf_counter()
            call()
            times.append((time.perf_counter() - began) * 1e3)
        return times[WARM_UP:]


def time_copies(frames: Tensor, timer: Timer) -> list[float]:
    """Milliseconds of copies from pinned memory, and back of derained frames and streaks."""
    on_gpu = [frames, frames.clone(), torch.empty(frames.shape[:3], dtype=torch.uint8, device=frames.device)]
    pinned = [torch.empty(tensor.shape, dtype=torch.uint8, pin_memory=True) for tensor in on_gpu]

    def copy() -> None:
        on_gpu[0].copy_(pinned[0], non_blocking=True)
        for source, target in zip(on_gpu[1:], pinned[1:], strict=True):
            target.copy_(source, non_blocking=True)

    return timer.on_gpu(copy)


def copy_bandwidth(timer: Timer) -> float:
    """Bytes a second that a copy within the GPU's memory reads and writes."""
    source = torch.empty(2**29, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / (statistics.median(timer.on_gpu(lambda: target.copy_(source))) / 1e3)


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that run by their shapes and settings."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            source, weight, _, stride, padding, dilation, _, _, groups = args
            settings = tuple(stride), tuple(padding), tuple(dilation), groups
            self.counts[tuple(source.shape), tuple(weight.shape), settings] += 1
        return func(*args, **(kwargs or {}))


def bound_ms(network: DeployNet, frames: Tensor, bandwidth: float, timer: Timer) -> float:
    """Sum over convolutions of the longer of two times: of the convolution alone, and of its bytes at ``bandwidth``."""
    # In inference mode convolutions are not told by this name.
    with torch.inference_mode(False), torch.no_grad(), Convolutions() as convolutions:
        network(frames)
    return sum(count * convolution_ms(*key, bandwidth, timer) for key, count in convolutions.counts.items())


def convolution_ms(size: Size, kernel: Size, settings: tuple[Any, ...], bandwidth: float, timer: Timer) -> float:
    """The longer of the two times of one convolution, in fp16."""
    source, weight = (
        torch.randn(shape, dtype=torch.float16, device=DEVICE).to(memory_format=torch.channels_last)
        for shape in (size, kernel)
    )
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        alone = statistics.median(timer.on_gpu(lambda: torch.nn.functional.conv2d(source, weight, None, *settings)))
        result = torch.nn.functional.conv2d(source, weight, None, *settings)
    moved = 2 * (source.numel() + weight.numel() + result.numel())
    return max(alone, moved / bandwidth * 1e3)


def say(times: list[float], batch: int) -> str:
    """p50 / p95 of one frame."""
    ordered = sorted(times)
    return " / ".join(f"{ordered[round(share * (len(ordered) - 1))] / batch:.2f}" for share in (0.5, 0.95))
