"""Segmentation as a loss: a frozen network judges the residual or the derained image; the gradient flows through it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.fpn import BACKGROUND, ResNetFPN, StreakFPN


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


class UnsupervisedSegmentationLoss(nn.Module):
    """URSS of SAPNet (WACV 2022): the residual is to be segmented with confidence, whatever into.

    The network's own argmax is the pseudo-label. It is frozen, and the gradient flows through it into the residual.
    """

    def __init__(self, network: ResNetFPN | None = None, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self._judge = _Judge(network or ResNetFPN())

    def forward(self, derained: Tensor, rainy: Tensor) -> Tensor:
        """derained, rainy: (B, 3, H, W) RGB in [0, 1]. Returns a float32 scalar. Raises ValueError."""
        _check(derained, rainy)
        residual = (rainy.float() - derained.float()).clamp(0.0, 1.0)  # rain only brightens
        logits = self._judge(residual)
        return focal_loss(logits, logits.detach().argmax(1), self.gamma)


class StreakSegmentationLoss(nn.Module):
    """The derained image is to hold nothing that a trained network takes for rain streaks.

    network: a trained StreakFPN (``training.train_segmenter.load_segmenter``); it is frozen.
    """

    def __init__(self, network: StreakFPN, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self._judge = _Judge(network)

    def forward(self, derained: Tensor, rainy: Tensor) -> Tensor:
        """derained: (B, 3, H, W) RGB in [0, 1]. rainy: not used, both losses of this file are called alike.

        Returns a float32 scalar. Raises ValueError.
        """
        _check(derained, rainy)
        logits = self._judge(derained.float())
        background = torch.full_like(logits[:, 0], BACKGROUND, dtype=torch.int64)
        return focal_loss(logits, background, self.gamma)


class _Judge:
    """A frozen network, in float32 whatever the precision around it.

    Not a Module, so that the loss which holds it, and the trainer around that, cannot train it, set it to training
    mode, cast it, or save it with the weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network.float().eval().requires_grad_(False)

    def __call__(self, image: Tensor) -> Tensor:
        parameter = next(self._network.parameters())
        if parameter.device != image.device:
            # Moved during a validation they would be inference tensors, which no later backward may use.
            with torch.inference_mode(False):
                self._network.to(image.device)
        with torch.autocast(image.device.type, enabled=False):
            logits: Tensor = self._network(image)
        return logits


def _check(derained: Tensor, rainy: Tensor) -> None:
    if derained.shape != rainy.shape:
        raise ValueError(f"expected images of one shape, got {tuple(derained.shape)} and {tuple(rainy.shape)}")
