"""Networks without the backends of sapnet, for ``sapnet bench`` to time beside these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from sapnet.backends.base import BackendSpec, Frames
from sapnet.backends.devices import without_tf32
from sapnet.commands.bench import Ready, Timing
from sapnet.model.deploy import DTYPES, DeployNet

Infer = Callable[[Frames], Frames]


@contextmanager
def plain(noise: Frames, name: str, infer: Infer) -> Iterator[Ready]:
    """A contender: a network as it was published. infer: derains frames, uint8 (B, H, W, 3)."""
    yield lambda: infer(noise), Timing(name, "", "", "")


def eager(deploy: DeployNet, device: str = "cpu", precision: str = "fp32", is_compiled: bool = False) -> Infer:
    """As eager torch runs it fastest, or by torch.compile; frames are copied to the device and back."""
    deploy.network.to(DTYPES[precision])
    deploy = deploy.eval().to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
    # It stops at its recompile limit, and runs eager from then on without a word.
    torch.compiler.reset()
    network = torch.compile(deploy, mode="reduce-overhead", dynamic=False) if is_compiled else deploy

    def infer(frames: Frames) -> Frames:
        with torch.inference_mode(), without_tf32():
            return network(torch.from_numpy(frames).to(device))[0].cpu().numpy()

    return infer


def on_openvino(deploy: DeployNet) -> Infer:
    """On OpenVINO in the precision that it chooses, compiled for each size."""
    from sapnet.backends import openvino

    precision = openvino.choose_precision(BackendSpec(device="cpu"))
    model = openvino.convert(deploy.eval())

    @cache
    def request(shape: tuple[int, ...]) -> Any:
        static = model.clone()
        static.reshape(list(shape))
        return openvino.compile_model(static, precision).create_infer_request()

    return lambda frames: request(frames.shape).infer([frames], share_outputs=False)[0]
