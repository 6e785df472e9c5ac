"""Mean absolute difference, as a function for stacks of stages and as a module for two images."""

from __future__ import annotations

from torch import Tensor, nn


def l1_each(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of every image, (...).

    image, reference: (..., C, H, W), broadcast against each other: a stack of stages may share one reference.
    Raises ValueError.

    >>> import torch
    >>> l1_each(torch.full((2, 3, 4, 4), 0.5), torch.zeros(3, 4, 4)).tolist()
    [0.5, 0.5]
    """
    if image.shape[-3:] != reference.shape[-3:]:
        raise ValueError(f"expected images of one size, got {tuple(image.shape)} and {tuple(reference.shape)}")
    return (image - reference).abs().mean(dim=(-3, -2, -1))


class L1Loss(nn.Module):
    """The mean of ``l1_each`` as a module."""

    def forward(self, derained: Tensor, clean: Tensor) -> Tensor:
        return l1_each(derained, clean).mean()
