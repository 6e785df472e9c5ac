"""Frames: their one form at every boundary, uint8 (H, W, 3) BGR, and its conversion to tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sapnet.errors import ImageFormatError

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 16

# Of Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (BT.601), in BGR order.
_LUMA_BGR = np.array([24.966, 128.553, 65.481]) / 255

# Pixels at every boundary: (H, W, 3) BGR, (B, H, W, 3) in a batch, (H, W) of a mask.
Frame = NDArray[np.uint8]


def require_frame(frame: object) -> Frame:
    """``frame`` itself if it is uint8 (H, W, 3) with both sides at least ``MIN_SIDE``; views of any strides will do.

    Raises ImageFormatError.
    """
    wanted = "expected a numpy array of uint8 (H, W, 3), BGR"
    if not isinstance(frame, np.ndarray):
        raise ImageFormatError(f"got a {type(frame).__name__}, {wanted}", kind="encoding")
    if frame.dtype != np.uint8:
        raise ImageFormatError(f"got an array of {frame.dtype}, {wanted}; scale it to 0..255 and cast it", "encoding")
    if frame.ndim != 3 or frame.shape[2] != 3:
        hint = "; cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) makes a gray frame fit" if frame.ndim == 2 else ""
        raise ImageFormatError(f"got an array of shape {frame.shape}, {wanted}{hint}", kind="encoding")
    height, width, _ = frame.shape
    if min(height, width) < MIN_SIDE:
        raise ImageFormatError(
            f"got a frame of {height}x{width}, expected at least {MIN_SIDE}x{MIN_SIDE}; enlarge or leave it out", "size"
        )
    return frame


def to_tensor(frames: Frame) -> Tensor:
    """uint8 (H, W, 3) or (B, H, W, 3) BGR -> float32 (B, 3, H, W) RGB in [0, 1], on the CPU."""
    import torch

    batch = frames if frames.ndim == 4 else frames[None]
    rgb = np.ascontiguousarray(batch[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(rgb).to(torch.float32) / 255.0


def psnr(image: NDArray[Any], reference: NDArray[Any]) -> float:
    """PSNR in dB over all samples of two arrays of one shape, peak 255; infinite where they are equal."""
    mean_square = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def to_y(frame: Frame) -> NDArray[np.float64]:
    """uint8 (H, W, 3) BGR -> (H, W): ``Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255`` (BT.601), not rounded."""
    y: NDArray[np.float64] = 16.0 + frame @ _LUMA_BGR
    return y


def psnr_y(frame: Frame, reference: Frame) -> float:
    """PSNR in dB on Y of two uint8 (H, W, 3) BGR frames, Y in float64, not rounded; infinite where they are equal."""
    return psnr(to_y(frame), to_y(reference))
