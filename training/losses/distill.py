"""What another network derains as a loss: a small network follows a large one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sapnet.model.sapnet import SAPNet
from training.losses.frozen import Frozen
from training.losses.l1 import l1_each


class DistillationLoss(nn.Module):
    """Mean absolute difference from the teacher's derained image, which is clamped to [0, 1] and computed in bfloat16.

    teacher: trained weights; it is frozen.
    """

    def __init__(self, teacher: SAPNet) -> None:
        super().__init__()
        self._teacher = Frozen(teacher)

    def forward(self, derained: Tensor, rainy: Tensor) -> Tensor:
        """derained, rainy: (B, 3, H, W) RGB in [0, 1]. Returns a float32 scalar. Raises ValueError."""
        with torch.no_grad(), torch.autocast(rainy.device.type, dtype=torch.bfloat16):
            wanted = self._teacher.on(rainy.device).derain(rainy).float().clamp(0, 1)
        return l1_each(derained.float(), wanted).mean()
