"""Whether an engine computes what the network does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
import torch

from sapnet.backends import devices
from sapnet.backends.base import EngineShape, Frames
from sapnet.backends.engines.key import UnfitEngineError
from sapnet.images.frame import psnr
from sapnet.model import DeployNet
from sapnet.rain import RainSynthesizer

# 8-bit PSNR that an engine must reach against float32, in dB.
REQUIRED_DB: Mapping[str, float] = MappingProxyType({"fp32": 65.0, "fp16": 55.0, "bf16": 48.0})

# Equal frames agree infinitely, which JSON cannot hold.
_MOST_DB = 99.0


def prove(
    infer: Callable[[Frames], tuple[Frames, Frames]],
    network: DeployNet,
    shape: EngineShape,
    precision: str,
    device: torch.device,
) -> float:
    """8-bit PSNR in dB between what ``infer`` gives and the float32 network, on a full batch of different rainy frames.

    It is that of the worst frame's derained image or streaks. Raises UnfitEngineError, with the figure, for less than
    REQUIRED_DB. At most 99 dB, which equal frames give.
    """
    frames = np.stack([rainy_frame(shape, seed) for seed in range(shape.max_batch)])
    results = infer(frames)
    # One by one: the float32 network needs more memory than the engine.
    agreement = min(
        min(psnr(got[index], expected[0]), _MOST_DB)
        for index in range(len(frames))
        for got, expected in zip(results, _run_float32(network, frames[index : index + 1], device), strict=True)
    )
    if agreement < REQUIRED_DB[precision]:
        raise UnfitEngineError(
            f"the engine for {shape} in {precision} agrees with float32 by {agreement:.1f} dB only, "
            f"{REQUIRED_DB[precision]:g} dB are needed; use another precision, and report the versions of `sapnet info`"
        )
    return round(agreement, 1)


def rainy_frame(shape: EngineShape, seed: int) -> Frames:
    """A frame with texture under heavy rain, uint8 (H, W, 3) BGR, the same for equal shapes and seeds."""
    rng = np.random.default_rng(seed)
    size = (shape.width, shape.height)
    coarse, fine = (rng.integers(0, 160, (rows, rows, 3), np.uint8) for rows in (12, 90))
    layers = [cv2.resize(layer, size, interpolation=cv2.INTER_CUBIC) for layer in (coarse, fine)]
    clean = cv2.addWeighted(layers[0], 0.7, layers[1], 0.3, 0.0)
    rainy, _ = RainSynthesizer("heavy", shape.height, shape.width, seed).add(np.asarray(clean, np.uint8), 0)
    return rainy


def _run_float32(network: DeployNet, frames: Frames, device: torch.device) -> tuple[Frames, Frames]:
    exact = network.float().to(device)
    with torch.inference_mode(), devices.PREPARING, devices.without_tf32():
        derained, streaks = exact(torch.from_numpy(frames).to(device))
        return derained.cpu().numpy(), streaks.cpu().numpy()
