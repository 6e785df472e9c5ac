"""Structural similarity (Wang et al., 2004) as a loss, with the window of PReNet's training (Ren et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SIZE, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Mean structural similarity, a scalar, at most 1; differentiable in both. The rest as for ``ssim_each``.

    >>> float(ssim(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)))
    1.0
    """
    return ssim_each(image, reference).mean()


def ssim_each(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of every image, (...).

    image, reference: (..., C, H, W) in [0, 1], broadcast against each other: a stack of stages may share one
    reference. Gaussian 11x11 window, sigma 1.5, on every channel; borders are padded with zeros. Raises ValueError.
    """
    if image.shape[-3:] != reference.shape[-3:]:
        raise ValueError(f"expected images of one size, got {tuple(image.shape)} and {tuple(reference.shape)}")
    mean, wanted = _blur(image), _blur(reference)
    variance = _blur(image * image) - mean * mean
    wanted_variance = _blur(reference * reference) - wanted * wanted
    covariance = _blur(image * reference) - mean * wanted
    luminance = (2 * mean * wanted + _C1) / (mean * mean + wanted * wanted + _C1)
    structure = (2 * covariance + _C2) / (variance + wanted_variance + _C2)
    return (luminance * structure).mean(dim=(-3, -2, -1))


class NegativeSSIM(nn.Module):
    """``-ssim`` as a module."""

    def forward(self, derained: Tensor, clean: Tensor) -> Tensor:
        return -ssim(derained, clean)


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
