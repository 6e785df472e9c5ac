"""Whether an engine computes what the network does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
import torch

from sapnet.backends import devices as gpu
from sapnet.backends.base import Frames
from sapnet.backends.engines.key import EngineShape, UnfitEngineError
from sapnet.model import DeployNet
from sapnet.rain import RainSynthesizer

# 8-bit PSNR that an engine must reach against float32, in dB.
REQUIRED_DB: Mapping[str, float] = MappingProxyType({"fp32": 65.0, "fp16": 55.0, "bf16": 48.0})
_SEED = 0


def prove(
    infer: Callable[[Frames], tuple[Frames, Frames]],
    network: DeployNet,
    shape: EngineShape,
    precision: str,
    device: torch.device,
) -> float:
    """8-bit PSNR in dB between what ``infer`` gives and the float32 network, on a rainy frame of the shape.

    It is that of the derained frame or of the streaks, whichever is lower. Raises UnfitEngineError, with the figure,
    for less than REQUIRED_DB. Equal frames give 99 dB.
    """
    frames = rainy_frame(shape)[None]
    expected = _run_float32(network, frames, device)
    agreement = min(_psnr(*pair) for pair in zip(infer(frames), expected, strict=True))
    if agreement < REQUIRED_DB[precision]:
        raise UnfitEngineError(
            f"the engine for {shape} in {precision} agrees with float32 by {agreement:.1f} dB only, "
            f"{REQUIRED_DB[precision]:g} dB are needed; use another precision, and report the versions of `sapnet info`"
        )
    return round(agreement, 1)


def _psnr(one: Frames, other: Frames) -> float:
    error = float(np.mean((one.astype(np.float32) - other) ** 2))
    return float(10 * np.log10(255.0**2 / error)) if error else 99.0


def rainy_frame(shape: EngineShape) -> Frames:
    """A frame with texture under heavy rain, uint8 (H, W, 3) BGR, the same for equal shapes."""
    rng = np.random.default_rng(_SEED)
    size = (shape.width, shape.height)
    coarse, fine = (rng.integers(0, 160, (rows, rows, 3), np.uint8) for rows in (12, 90))
    layers = [cv2.resize(layer, size, interpolation=cv2.INTER_CUBIC) for layer in (coarse, fine)]
    clean = cv2.addWeighted(layers[0], 0.7, layers[1], 0.3, 0.0)
    rainy, _ = RainSynthesizer("heavy", shape.height, shape.width, _SEED).add(np.asarray(clean, np.uint8), 0)
    return rainy


def _run_float32(network: DeployNet, frames: Frames, device: torch.device) -> tuple[Frames, Frames]:
    exact = network.float().to(device)
    with torch.inference_mode(), gpu.PREPARING, gpu.without_tf32():
        derained, streaks = exact(torch.from_numpy(frames).to(device))
        return derained.cpu().numpy(), streaks.cpu().numpy()
