"""A lower bound on a network's time: its arithmetic and memory traffic at the speeds measured on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from sapnet.backends.base import BackendSpec
from sapnet.backends.network import DTYPES, load_deploy_network
from sapnet.images.frame import MIN_SIDE
from sapnet.model.deploy import Rewrites

_GEMM_SIDE = 1536
_COPIED_BYTES = 1 << 27
_REPEATS = 5


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


def count(spec: BackendSpec, precision: str, batch: int, height: int, width: int) -> list[Work]:
    """The convolutions of the deploy network on frames of one size. Raises CheckpointError.

    precision: ``fp32``, ``bf16`` or ``fp16``, that of the tensors between the convolutions.
    """
    network = load_deploy_network(spec, Rewrites())
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
    a, b = (torch.rand(_GEMM_SIDE, _GEMM_SIDE, device=device).to(DTYPES[precision]) for _ in range(2))
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product_s = _shortest(lambda: torch.mm(a, b), device)
        copy_s = _shortest(lambda: target.copy_(source), device)
    return Peak(2 * _GEMM_SIDE**3 / product_s, 2 * _COPIED_BYTES / copy_s)


def _shortest(work: Callable[[], object], device: str) -> float:
    seconds = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
