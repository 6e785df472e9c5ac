"""The training loss: named terms, each with a weight of its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from sapnet.model.weights import load_weights
from training.config import LossConfig
from training.losses.contrastive import load_vgg16, perceptual_contrastive_loss
from training.losses.edge import edge_loss
from training.losses.reconstruction import l1_each, log_mse_each, ssim_each
from training.losses.segmentation import ResNetFPN, unsupervised_segmentation_loss

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
Network = TypeVar("Network", bound=nn.Module)


class DerainingLoss:
    """Terms of a LossConfig with a weight above 0.

    The networks behind some terms are frozen and belong to the loss alone: no module holds them, so that they are in
    neither the optimizer nor the checkpoint. They follow the images to their device.
    """

    def __init__(self, config: LossConfig) -> None:
        self._terms: dict[str, tuple[float, Term]] = {
            name: (weight, make(config)) for name, make in TERMS.items() if (weight := getattr(config, name))
        }

    def __call__(self, estimates: Tensor, rainy: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Each term as it is, and ``loss``, their weighted sum.

        estimates: (S, B, 3, H, W), every stage; rainy, clean: (B, 3, H, W); RGB in [0, 1], any float type. All is
        computed in float32.
        """
        with torch.autocast(estimates.device.type, enabled=False):
            estimates, rainy, clean = estimates.float(), rainy.float(), clean.float()
            terms = {name: term(estimates, rainy, clean) for name, (_, term) in self._terms.items()}
        total = torch.stack([self._terms[name][0] * value for name, value in terms.items()]).sum()
        return {"loss": total, **terms}


def stage_weights(config: LossConfig, stages: int) -> Tensor:
    """(S,): from the first stage's weight to the last one's on a line, scaled to a mean of 1."""
    if stages == 1:
        return torch.ones(1)
    weights = torch.linspace(config.first_stage, config.last_stage, stages)
    return weights / weights.mean()


def _frozen(network: Network) -> Network:
    """In float32, without gradients of its own."""
    return network.float().eval().requires_grad_(False)


def _over_stages(config: LossConfig, measure: Callable[[Tensor, Tensor], Tensor]) -> Term:
    def term(estimates: Tensor, rainy: Tensor, clean: Tensor) -> Tensor:
        weights = stage_weights(config, len(estimates)).to(estimates.device)
        return (weights[:, None] * measure(estimates, clean)).mean()

    return term


def _segmented(config: LossConfig, judged: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """judged: from the derained and the rainy image, the one that is segmented."""
    segment = _frozen(ResNetFPN(config.backbone))
    return lambda estimates, rainy, clean: unsupervised_segmentation_loss(
        judged(estimates[-1], rainy).clamp(0.0, 1.0), segment.to(rainy.device)
    )


def _pcl(config: LossConfig) -> Term:
    features = _frozen(load_vgg16(config.vgg))
    return lambda estimates, rainy, clean: perceptual_contrastive_loss(
        estimates[-1].clamp(0.0, 1.0), rainy, clean, features.to(rainy.device)
    )


def _distill(config: LossConfig) -> Term:
    """Mean absolute difference from the teacher's derained image, clamped to [0, 1] and computed in bfloat16.

    Samples with less rain than ``distill_from`` count as 0.
    """
    teacher = _frozen(load_weights(config.teacher))

    def term(estimates: Tensor, rainy: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(rainy.device.type, dtype=torch.bfloat16):
            wanted = teacher.to(rainy.device).derain(rainy).float().clamp(0, 1)
        followed = (rainy - clean).clamp(min=0).mean(dim=(1, 2, 3)) >= config.distill_from
        return (l1_each(estimates[-1], wanted) * followed).mean()

    return term


TERMS: Mapping[str, Callable[[LossConfig], Term]] = {
    "ssim": lambda config: _over_stages(config, lambda estimates, clean: -ssim_each(estimates, clean)),
    "l1": lambda config: _over_stages(config, l1_each),
    "log_mse": lambda config: _over_stages(config, log_mse_each),
    "edge": lambda config: lambda estimates, rainy, clean: edge_loss(estimates[-1], clean),
    # The rain that was taken out, which only brightens.
    "urss": lambda config: _segmented(config, lambda derained, rainy: rainy - derained),
    "ubs": lambda config: _segmented(config, lambda derained, rainy: derained),
    "pcl": _pcl,
    "distill": _distill,
}
