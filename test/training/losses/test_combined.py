"""The weighted sum: each term's value, the stages' weights, gradients, what is built and what is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sapnet.model.weights import load_weights
from training.config import LossConfig
from training.losses import combined
from training.losses.combined import DerainingLoss, Frozen, stage_weights
from training.losses.contrastive import Vgg16
from training.losses.edge import edge_loss
from training.losses.reconstruction import ssim_each
from training.losses.segmentation import ResNetFPN

STAGES = 3


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def random_networks(monkeypatch):
    """Networks without the weights that this machine need not have."""
    monkeypatch.setattr(combined, "ResNetFPN", lambda pretrained: ResNetFPN(pretrained=None))
    vgg = Vgg16()
    monkeypatch.setattr(combined, "load_vgg16", lambda path: vgg)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Estimates of three stages, rainy, clean."""
    return images(STAGES, 2, 3, 32, 32), images(2, 3, 32, 32, seed=1), images(2, 3, 32, 32, seed=2)


class TestStageWeights:
    def test_rise_on_a_line_with_a_mean_of_one(self):
        assert stage_weights(LossConfig(), 5).tolist() == pytest.approx([0.5, 0.75, 1.0, 1.25, 1.5])
        assert stage_weights(LossConfig(), 6).mean().item() == pytest.approx(1)

    def test_of_one_stage(self):
        assert stage_weights(LossConfig(first_stage=0), 1).tolist() == [1.0]


class TestTerms:
    def test_the_loss_is_their_weighted_sum(self, batch):
        terms = DerainingLoss(LossConfig(ssim=0.5, l1=2.0, edge=3.0))(*batch)
        assert set(terms) == {"loss", "ssim", "l1", "edge"}
        expected = 0.5 * terms["ssim"] + 2 * terms["l1"] + 3 * terms["edge"]
        assert terms["loss"].item() == pytest.approx(expected.item())

    def test_ssim_and_l1_are_of_every_stage(self, batch):
        estimates, _, clean = batch
        terms = DerainingLoss(LossConfig())(*batch)
        weights = (0.5, 1.0, 1.5)
        similar = [
            weight * ssim_each(stage, clean).mean().item() for weight, stage in zip(weights, estimates, strict=True)
        ]
        apart = [weight * (stage - clean).abs().mean().item() for weight, stage in zip(weights, estimates, strict=True)]
        assert terms["ssim"].item() == pytest.approx(-sum(similar) / STAGES, rel=1e-5)
        assert terms["l1"].item() == pytest.approx(sum(apart) / STAGES, rel=1e-5)

    def test_the_others_are_of_the_last_stage(self, batch):
        estimates, rainy, clean = batch
        config = LossConfig(edge=1, urss=1, ubs=1, pcl=1, distill=1, teacher="sapnet_fast")
        terms = DerainingLoss(config)(*batch)
        assert terms["edge"].item() == edge_loss(estimates[-1], clean).item()
        again = DerainingLoss(config)(torch.cat((1 - estimates[:-1], estimates[-1:])), rainy, clean)
        assert all(torch.equal(again[name], terms[name]) for name in ("edge", "urss", "ubs", "pcl", "distill"))

    @pytest.mark.parametrize("name", ["ssim", "l1", "edge", "urss", "ubs", "pcl", "distill"])
    def test_gradient_reaches_the_estimates(self, name, batch):
        estimates, rainy, clean = batch
        estimates = estimates.requires_grad_()
        loss = DerainingLoss(LossConfig(**{name: 1, "teacher": "sapnet_fast"}))
        (gradient,) = torch.autograd.grad(loss(estimates, rainy, clean)[name], estimates)
        reached = gradient.abs().amax(dim=(1, 2, 3, 4)) > 0
        assert torch.isfinite(gradient).all()
        assert reached.tolist() == ([True] * STAGES if name in ("ssim", "l1") else [False, False, True])

    def test_precision_around_it_changes_nothing(self, batch):
        loss = DerainingLoss(LossConfig(edge=1, urss=1, ubs=1, pcl=1))
        outside = loss(*batch)["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(*batch)["loss"], outside)
        assert loss(*(image.bfloat16() for image in batch))["loss"].dtype == torch.float32


def test_distillation_is_the_distance_from_what_the_teacher_derains(batch):
    _, rainy, clean = batch
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = load_weights("sapnet_fast").derain(rainy).float().clamp(0, 1)
    loss = DerainingLoss(LossConfig(distill=1, teacher="sapnet_fast"))
    assert loss((wanted + 0.25)[None], rainy, clean)["distill"].item() == pytest.approx(0.25)


def test_a_frozen_network_goes_where_the_images_are():
    # Lightning moves a module's own networks only, and after it has made the loss.
    frozen = Frozen(nn.Conv2d(3, 3, 1))
    with torch.inference_mode():
        moved = frozen.on(torch.device("meta"))
    assert moved.weight.device == torch.device("meta")
    assert not moved.weight.is_inference()
    assert frozen.on(torch.device("meta")) is moved


class TestSettings:
    def test_a_network_is_not_looked_at_where_its_term_is_left_out(self):
        DerainingLoss(LossConfig(teacher="nowhere.pth", vgg="nowhere.pth", backbone="nowhere"))
