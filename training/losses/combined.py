"""The training loss: named terms, each with a weight of its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sapnet.model.weights import load_weights
from training.config import LossConfig
from training.losses.contrastive import load_vgg16, perceptual_contrastive_loss
from training.losses.edge import edge_loss
from training.losses.reconstruction import l1_each, ssim_each
from training.losses.segmentation import ResNetFPN, residual, unsupervised_segmentation_loss

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
Network = TypeVar("Network", bound=nn.Module)


class DerainingLoss:
    """Terms of a LossConfig with a weight above 0.

    The networks behind some terms are frozen and belong to the loss alone: no module holds them, so that they are in
    neither the optimizer nor the checkpoint.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
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


class Frozen(Generic[Network]):
    """A network in float32, without gradients of its own, wherever the images are.

    Not a Module, so that the loss which holds it, and the trainer around that, cannot train it, set it to training
    mode, cast it, or save it with the weights. Hence it is not moved with them, either.
    """

    def __init__(self, network: Network) -> None:
        self._network = network.float().eval().requires_grad_(False)

    def on(self, device: torch.device) -> Network:
        """The network, moved to ``device`` if it is elsewhere."""
        if next(self._network.parameters()).device != device:
            # Moved during a validation they would be inference tensors, which no later backward may use.
            with torch.inference_mode(False):
                self._network.to(device)
        return self._network


def stage_weights(config: LossConfig, stages: int) -> Tensor:
    """(S,): from the first stage's weight to the last one's on a line, scaled to a mean of 1."""
    if stages == 1:
        return torch.ones(1)
    weights = torch.linspace(config.first_stage, config.last_stage, stages)
    return weights / weights.mean()


def _over_stages(config: LossConfig, measure: Callable[[Tensor, Tensor], Tensor]) -> Term:
    def term(estimates: Tensor, rainy: Tensor, clean: Tensor) -> Tensor:
        weights = stage_weights(config, len(estimates)).to(estimates.device)
        return (weights[:, None] * measure(estimates, clean)).mean()

    return term


def _ssim(config: LossConfig) -> Term:
    return _over_stages(config, lambda estimates, clean: -ssim_each(estimates, clean))


def _l1(config: LossConfig) -> Term:
    return _over_stages(config, l1_each)


def _edge(config: LossConfig) -> Term:
    return lambda estimates, rainy, clean: edge_loss(estimates[-1], clean)


def _urss(config: LossConfig) -> Term:
    segment = Frozen(ResNetFPN(pretrained=config.backbone))
    return lambda estimates, rainy, clean: unsupervised_segmentation_loss(
        residual(estimates[-1], rainy), segment.on(rainy.device)
    )


def _ubs(config: LossConfig) -> Term:
    segment = Frozen(ResNetFPN(pretrained=config.backbone))
    return lambda estimates, rainy, clean: unsupervised_segmentation_loss(
        estimates[-1].clamp(0.0, 1.0), segment.on(rainy.device)
    )


def _pcl(config: LossConfig) -> Term:
    features = Frozen(load_vgg16(config.vgg))
    return lambda estimates, rainy, clean: perceptual_contrastive_loss(
        estimates[-1].clamp(0.0, 1.0), rainy, clean, features.on(rainy.device)
    )


def _distill(config: LossConfig) -> Term:
    """Mean absolute difference from the teacher's derained image, clamped to [0, 1] and computed in bfloat16."""
    teacher = Frozen(load_weights(config.teacher))

    def term(estimates: Tensor, rainy: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(rainy.device.type, dtype=torch.bfloat16):
            wanted = teacher.on(rainy.device).derain(rainy).float().clamp(0, 1)
        return l1_each(estimates[-1], wanted).mean()

    return term


TERMS: Mapping[str, Callable[[LossConfig], Term]] = {
    "ssim": _ssim,
    "l1": _l1,
    "edge": _edge,
    "urss": _urss,
    "ubs": _ubs,
    "pcl": _pcl,
    "distill": _distill,
}
