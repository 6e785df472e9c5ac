"""The weighted sum: each term's value, the stages' weights, gradients, what is built and what is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from sapnet.model.weights import load_weights
from training.config import LossConfig
from training.losses.combined import TERMS, DerainingLoss, stage_weights
from training.losses.edge import edge_loss
from training.losses.reconstruction import ssim_each

STAGES = 3


@pytest.fixture
def config(backbone: str, vgg: Path) -> partial:
    """A LossConfig with every network at hand."""
    return partial(LossConfig, backbone=backbone, vgg=str(vgg), teacher="sapnet_fast")


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Estimates of three stages, rainy, clean."""
    return torch.rand(STAGES, 2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)


def test_stage_weights_rise_on_a_line_with_a_mean_of_one():
    assert stage_weights(LossConfig(), 5).tolist() == pytest.approx([0.5, 0.75, 1.0, 1.25, 1.5])
    assert stage_weights(LossConfig(first_stage=0), 1).tolist() == [1.0]


def test_the_loss_is_the_weighted_sum_of_terms_of_every_stage_and_of_the_last(batch):
    estimates, _, clean = batch
    # What a term needs is not looked at where it is left out.
    config = LossConfig(ssim=0.5, l1=2.0, edge=3.0, teacher="nowhere.pth", vgg="nowhere.pth", backbone="nowhere")
    terms = {name: value.item() for name, value in DerainingLoss(config)(*batch).items()}
    weights = torch.tensor([0.5, 1.0, 1.5])
    similar = torch.stack([ssim_each(stage, clean).mean() for stage in estimates])
    apart = torch.stack([(stage - clean).abs().mean() for stage in estimates])
    assert terms.pop("loss") == pytest.approx(0.5 * terms["ssim"] + 2 * terms["l1"] + 3 * terms["edge"])
    assert terms == pytest.approx(
        {
            "ssim": -(weights * similar).mean().item(),
            "l1": (weights * apart).mean().item(),
            "edge": edge_loss(estimates[-1], clean).item(),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("name", TERMS)
def test_gradient_reaches_the_estimates(name, batch, config):
    estimates, rainy, clean = batch
    estimates = estimates.requires_grad_()
    (gradient,) = torch.autograd.grad(DerainingLoss(config(**{name: 1}))(estimates, rainy, clean)[name], estimates)
    reached = gradient.abs().amax(dim=(1, 2, 3, 4)) > 0
    assert torch.isfinite(gradient).all()
    assert reached.tolist() == ([True] * STAGES if name in ("ssim", "l1", "log_mse") else [False, False, True])


def test_precision_around_it_changes_nothing(batch, config):
    loss = DerainingLoss(config(edge=1, urss=1, ubs=1, pcl=1))
    outside = loss(*batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(*batch)["loss"], outside)
    assert loss(*(image.bfloat16() for image in batch))["loss"].dtype == torch.float32


def test_distillation_is_the_distance_from_what_the_teacher_derains(batch, config):
    _, rainy, clean = batch
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = load_weights("sapnet_fast").derain(rainy).float().clamp(0, 1)
    loss = DerainingLoss(config(distill=1))
    assert loss((wanted + 0.25)[None], rainy, clean)["distill"].item() == pytest.approx(0.25)


def test_distillation_leaves_out_samples_with_little_rain(batch, config):
    _, rainy, _ = batch
    clean = rainy - torch.tensor([0.05, 0.15])[:, None, None, None]
    loss = {least: DerainingLoss(config(distill=1, distill_from=least)) for least in (0.0, 0.1, 0.2)}
    estimates = rainy[None].clone().requires_grad_()
    gradients = {
        least: torch.autograd.grad(each(estimates, rainy, clean)["distill"], estimates)[0]
        for least, each in loss.items()
    }
    reached = {least: (gradient[0].abs().amax(dim=(1, 2, 3)) > 0).tolist() for least, gradient in gradients.items()}
    assert reached == {0.0: [True, True], 0.1: [False, True], 0.2: [False, False]}


def test_urss_judges_the_rain_that_was_taken_out_and_ubs_the_derained_image(batch, config):
    estimates, rainy, clean = batch
    loss = DerainingLoss(config(urss=1, ubs=1))
    taken_out = (rainy - estimates[-1]).clamp(0, 1)
    assert torch.equal(loss(estimates, rainy, clean)["urss"], loss(taken_out[None], rainy, clean)["ubs"])
