"""Segmentation as a loss: a frozen network judges the residual or the derained image; the gradient flows through it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.fpn import BACKGROUND, ResNetFPN, StreakFPN
from training.losses.frozen import Frozen

Segmenter = Callable[[Tensor], Tensor]


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """``-(1 - p)^gamma log p`` of the target's class, mean over all pixels, a scalar (Lin et al., ICCV 2017).

    What is sure already counts little; gamma 0 is cross-entropy.
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


def unsupervised_segmentation_loss(derained: Tensor, rainy: Tensor, network: Segmenter, gamma: float = 2.0) -> Tensor:
    """URSS of SAPNet (WACV 2022): the residual is to be segmented with confidence, whatever into.

    The network's own argmax is the pseudo-label; the gradient flows through the network into the residual.

    derained, rainy: (B, 3, H, W) RGB in [0, 1]. network: images to logits. Returns a float32 scalar. Raises ValueError.
    """
    _check(derained, rainy)
    residual = (rainy.float() - derained.float()).clamp(0.0, 1.0)  # rain only brightens
    logits = _judge(network, residual)
    return focal_loss(logits, logits.detach().argmax(1), gamma)


class UnsupervisedSegmentationLoss(nn.Module):
    """``unsupervised_segmentation_loss`` as a module, with a frozen network."""

    def __init__(self, network: ResNetFPN | None = None, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self._network = Frozen(network or ResNetFPN())

    def forward(self, derained: Tensor, rainy: Tensor) -> Tensor:
        return unsupervised_segmentation_loss(derained, rainy, self._network.on(derained.device), self.gamma)


def streak_segmentation_loss(derained: Tensor, network: Segmenter, gamma: float = 2.0) -> Tensor:
    """The derained image is to hold nothing that a trained network takes for rain streaks.

    derained: (B, 3, H, W) RGB in [0, 1]. network: images to logits of BACKGROUND and STREAK. Returns a float32 scalar.
    Raises ValueError.
    """
    logits = _judge(network, derained.float())
    background = torch.full_like(logits[:, 0], BACKGROUND, dtype=torch.int64)
    return focal_loss(logits, background, gamma)


class StreakSegmentationLoss(nn.Module):
    """``streak_segmentation_loss`` as a module.

    network: a trained StreakFPN (``training.train_segmenter.load_segmenter``); it is frozen.
    """

    def __init__(self, network: StreakFPN, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self._network = Frozen(network)

    def forward(self, derained: Tensor, rainy: Tensor) -> Tensor:
        """rainy: not used, both losses of this file are called alike."""
        _check(derained, rainy)
        return streak_segmentation_loss(derained, self._network.on(derained.device), self.gamma)


def _judge(network: Segmenter, image: Tensor) -> Tensor:
    """Logits in float32 whatever the precision around it."""
    with torch.autocast(image.device.type, enabled=False):
        return network(image)


def _check(derained: Tensor, rainy: Tensor) -> None:
    if derained.shape != rainy.shape:
        raise ValueError(f"expected images of one shape, got {tuple(derained.shape)} and {tuple(rainy.shape)}")
