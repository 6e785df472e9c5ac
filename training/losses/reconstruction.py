"""Distances from the clean image, for stacks of stages: L1, PSNR, and structural similarity with PReNet's window."""

from __future__ import annotations

import torch
from torch import Tensor

_SIZE, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Mean squared error at about 45 dB: images that are better than that pull no harder, as dry ones would.
_BEST_MSE = 3e-5


def l1_each(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of every image, (...).

    image, reference: (..., C, H, W), broadcast against each other: a stack of stages may share one reference.
    """
    return (image - reference).abs().mean(dim=(-3, -2, -1))


def log_mse_each(image: Tensor, reference: Tensor) -> Tensor:
    """Decimal logarithm of the mean squared error of every image, (...): a tenth of its negative PSNR in dB.

    The PSNR loss of HINet (Chen et al., CVPR Workshops 2021), bounded below at about -4.5. A bright streak that is
    left in weighs more than in L1, and images weigh alike, whatever the rain.

    image, reference: (..., C, H, W) in [0, 1], broadcast against each other: a stack of stages may share one reference.
    """
    return ((image - reference).square().mean(dim=(-3, -2, -1)) + _BEST_MSE).log10()


def ssim_each(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of every image (Wang et al., 2004; window of PReNet, Ren et al., CVPR 2019), (...).

    image, reference: (..., C, H, W) in [0, 1], broadcast against each other: a stack of stages may share one
    reference. Gaussian 11x11 window, sigma 1.5, on every channel; borders are padded with zeros.
    """
    mean, wanted = _blur(image), _blur(reference)
    variance = _blur(image * image) - mean * mean
    wanted_variance = _blur(reference * reference) - wanted * wanted
    covariance = _blur(image * reference) - mean * wanted
    luminance = (2 * mean * wanted + _C1) / (mean * mean + wanted * wanted + _C1)
    structure = (2 * covariance + _C2) / (variance + wanted_variance + _C2)
    return (luminance * structure).mean(dim=(-3, -2, -1))


def _blur(x: Tensor) -> Tensor:
    """The window over every channel: (..., H, W) -> the same shape.

    Two products with banded matrices: many times faster on a CPU than convolutions of a single channel.
    """
    height, width = x.shape[-2:]
    return _window_matrix(height, x) @ x @ _window_matrix(width, x)


def _window_matrix(size: int, like: Tensor) -> Tensor:
    """(size, size): row i is the window around position i; symmetric."""
    positions = torch.arange(size, dtype=like.dtype, device=like.device)
    offsets = torch.arange(_SIZE, dtype=like.dtype, device=like.device) - _SIZE // 2
    distances = positions[:, None] - positions[None, :]
    window = torch.exp(-(distances**2) / (2 * _SIGMA**2)) * (distances.abs() <= _SIZE // 2)
    return window / torch.exp(-(offsets**2) / (2 * _SIGMA**2)).sum()
