"""Edges of the derained image against those of the clean one: a loss that has a gradient, and canny for the report."""

from __future__ import annotations

import math

import torch
from kornia.color import rgb_to_grayscale
from kornia.filters import canny, gaussian_blur2d, sobel
from torch import Tensor

# Inside the square root: the gradient of the magnitude stays finite where the image is flat. About a quarter of one
# 8-bit level's step.
_EPSILON = 1e-6


def edge_loss(derained: Tensor, clean: Tensor, sigma: float = 1.0) -> Tensor:
    """Mean absolute difference of the edge strengths, a scalar; 0 where the images are equal.

    The strength is ``sqrt(gx^2 + gy^2 + 1e-6)`` of the Sobel gradient of luma, smoothed by a Gaussian first. Canny's
    own magnitude comes after non-maximum suppression, sparse and jumping, and is of no use as a loss.

    derained, clean: (B, 3, H, W) RGB in [0, 1], H and W above ``3 * sigma``. sigma: of the Gaussian, in pixels.
    """
    return (_edge_strength(derained, sigma) - _edge_strength(clean, sigma)).abs().mean()


@torch.no_grad()
def edge_agreement(derained: Tensor, clean: Tensor) -> Tensor:
    """F1 of the derained image's canny edges against the clean one's, a scalar in [0, 1]: for reports, no loss.

    derained, clean: (B, 3, H, W) RGB in [0, 1]; the pixels of all images are pooled. 1 where neither has an edge.
    """
    with torch.autocast(derained.device.type, enabled=False):
        found, wanted = (canny(image.float())[1] > 0 for image in (derained, clean))
    total = found.sum() + wanted.sum()
    return torch.where(total > 0, 2 * (found & wanted).sum() / total.clamp(min=1), 1.0)


def _edge_strength(image: Tensor, sigma: float) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    side = 2 * math.ceil(3 * sigma) + 1
    smooth = gaussian_blur2d(rgb_to_grayscale(image), side, (sigma, sigma))
    return sobel(smooth, eps=_EPSILON)
