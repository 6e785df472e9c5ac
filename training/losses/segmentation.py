"""Unsupervised segmentation as a loss: a frozen network judges an image, and the gradient flows through it.

Two published terms are this loss on different images. ``urss`` of the preprint of July 2021 (unsupervised rain streak
segmentation) judges the residual; ``ubs`` of WACV 2022 (unsupervised background segmentation) the derained image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Segmenter = Callable[[Tensor], Tensor]


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """``-(1 - p)^gamma log p`` of the target's class, mean over all pixels, a scalar (Lin et al., ICCV 2017).

    Pixels that are classified with confidence count little; gamma 0 is cross-entropy.
    logits: (B, C, H, W), floating point. target: int64 (B, H, W), classes 0 to C - 1. gamma: 0, or 1 and more (in
    between the gradient has a pole where p is 1). Raises ValueError.

    >>> sure, unsure = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 0.0])
    >>> [round(float(focal_loss(logits.view(1, 2, 1, 1), torch.zeros(1, 1, 1).long())), 4) for logits in (sure, unsure)]
    [0.0, 0.1733]
    """
    if logits.dim() != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"expected logits (B, C, H, W) and target (B, H, W), got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if gamma < 1 and gamma != 0:
        raise ValueError(f"gamma must be 0, or 1 and more, got {gamma}")
    log_p = F.log_softmax(logits, 1).gather(1, target[:, None])
    return -((-torch.expm1(log_p)) ** gamma * log_p).mean()


def unsupervised_segmentation_loss(image: Tensor, network: Segmenter, gamma: float = 2.0) -> Tensor:
    """Focal loss of a segmentation against its own argmax: the image is to be segmented with confidence.

    image: (B, 3, H, W), [0, 1]. network: images to logits. Returns a float32 scalar, in any precision around it.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = network(image.float())
        return focal_loss(logits, logits.detach().argmax(1), gamma)


def residual(derained: Tensor, rainy: Tensor) -> Tensor:
    """The rain that was taken out, in [0, 1]: rain only brightens. Raises ValueError for images of different shapes."""
    if derained.shape != rainy.shape:
        raise ValueError(f"expected images of one shape, got {tuple(derained.shape)} and {tuple(rainy.shape)}")
    return (rainy.float() - derained.float()).clamp(0.0, 1.0)
