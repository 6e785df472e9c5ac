"""Focal loss and the two segmentation losses: what they prefer, where their gradient goes, what stays frozen."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.fpn import ResNetFPN, StreakFPN
from training.losses.segmentation import StreakSegmentationLoss, UnsupervisedSegmentationLoss, focal_loss


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def resnet() -> ResNetFPN:
    return ResNetFPN(pretrained=None)


@pytest.fixture(scope="module", params=["urss", "streaks"])
def loss(request, resnet) -> nn.Module:
    return UnsupervisedSegmentationLoss(resnet) if request.param == "urss" else StreakSegmentationLoss(StreakFPN())


def network(loss: nn.Module) -> nn.Module:
    return loss._network._network


class TestFocalLoss:
    def test_without_gamma_is_cross_entropy(self):
        logits, target = images(2, 5, 4, 3), torch.randint(5, (2, 4, 3), generator=torch.Generator().manual_seed(0))
        assert focal_loss(logits, target, gamma=0).item() == pytest.approx(F.cross_entropy(logits, target).item())

    @pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
    def test_of_a_known_probability(self, gamma):
        p = 0.8
        logits = torch.tensor([math.log(p / (1 - p)), 0.0]).view(1, 2, 1, 1)
        loss = focal_loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64), gamma)
        assert loss.item() == pytest.approx(-((1 - p) ** gamma) * math.log(p), rel=1e-5)

    def test_of_certainty_is_zero_with_a_finite_gradient(self):
        for sure in (100.0, -100.0):
            logits = torch.tensor([sure, 0.0]).view(1, 2, 1, 1).requires_grad_()
            loss = focal_loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64))
            loss.backward()
            assert loss.item() == pytest.approx(max(-sure, 0.0))
            assert torch.isfinite(logits.grad).all()

    def test_gradient_is_that_of_the_function(self):
        logits = images(2, 3, 2, 3).double().requires_grad_()
        target = torch.randint(3, (2, 2, 3), generator=torch.Generator().manual_seed(0))
        assert torch.autograd.gradcheck(focal_loss, (logits, target))

    @pytest.mark.parametrize(
        ("logits", "target"), [((2, 3, 4, 5), (2, 4, 6)), ((2, 3, 4, 5), (2, 1, 4, 5)), ((3, 4, 5), (4, 5))]
    )
    def test_wrong_shapes(self, logits, target):
        with pytest.raises(ValueError, match="expected logits") as caught:
            focal_loss(torch.zeros(logits), torch.zeros(target, dtype=torch.int64))
        assert str(logits) in str(caught.value)
        assert str(target) in str(caught.value)

    @pytest.mark.parametrize("gamma", [-1.0, 0.5])
    def test_wrong_gamma(self, gamma):
        with pytest.raises(ValueError, match="gamma must be"):
            focal_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64), gamma)


class TestBoth:
    def test_gradient_reaches_the_derained_image_and_lowers_the_loss(self, loss):
        rainy = images(2, 3, 33, 40)
        derained = (0.7 * rainy).requires_grad_()
        before = loss(derained, rainy)
        (gradient,) = torch.autograd.grad(before, derained)
        assert (before.dtype, before.shape) == (torch.float32, ())
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
        assert loss(derained - 1e-2 * gradient / gradient.norm(), rainy) < before

    def test_gradient_comes_where_nothing_is_derained_yet(self, loss):
        rainy = images(1, 3, 32, 32)
        derained = rainy.clone().requires_grad_()
        loss(derained, rainy).backward()
        assert torch.isfinite(derained.grad).all()
        assert derained.grad.abs().sum() > 0

    def test_network_gets_no_gradient_and_does_not_change(self, loss):
        parent = nn.ModuleDict({"loss": loss, "network": nn.Conv2d(3, 3, 1)}).train()
        before = copy.deepcopy(network(loss).state_dict())
        optimizer = torch.optim.SGD(parent.parameters(), lr=1.0)
        rainy = images(2, 3, 32, 32)
        loss(parent["network"](rainy), rainy).backward()
        optimizer.step()
        assert all(parameter.grad is None for parameter in network(loss).parameters())
        assert all(not module.training for module in network(loss).modules())
        after = network(loss).state_dict()
        assert all(torch.equal(after[key], before[key]) for key in before)

    def test_network_is_neither_saved_nor_trained_nor_cast_with_its_parent(self, loss):
        parent = nn.ModuleDict({"loss": loss, "network": nn.Conv2d(3, 3, 1)}).half()
        assert parent.state_dict().keys() == {"network.weight", "network.bias"}
        assert len(list(parent.parameters())) == 2
        assert {parameter.dtype for parameter in network(loss).parameters()} == {torch.float32}

    def test_precision_around_it_changes_nothing(self, loss):
        derained, rainy = images(1, 3, 32, 32), images(1, 3, 32, 32, seed=1)
        outside = loss(derained, rainy)
        with torch.autocast("cpu", torch.bfloat16):
            assert loss(derained, rainy) == outside
        assert loss(derained.bfloat16(), rainy.bfloat16()).dtype == torch.float32

    def test_comes_after_a_validation_in_inference_mode(self, loss):
        rainy = images(1, 3, 32, 32)
        with torch.inference_mode():
            loss(rainy, rainy)
        derained = rainy.clone().requires_grad_()
        loss(derained, rainy).backward()
        assert derained.grad.abs().sum() > 0

    def test_wrong_shapes(self, loss):
        with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\) and \(1, 3, 32, 30\)"):
            loss(images(1, 3, 32, 32), images(1, 3, 32, 30))
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 1, 32, 32\)"):
            loss(images(1, 1, 32, 32), images(1, 1, 32, 32))


class TestUnsupervised:
    def test_is_the_focal_loss_of_the_networks_own_labels(self, resnet):
        derained, rainy = images(1, 3, 32, 32), images(1, 3, 32, 32, seed=1)
        logits = resnet((rainy - derained).clamp(0, 1))
        probability = logits.softmax(1).amax(1)
        expected = -((1 - probability) ** 2 * probability.log()).mean()
        assert UnsupervisedSegmentationLoss(resnet)(derained, rainy).item() == pytest.approx(expected.item(), rel=1e-4)

    def test_sees_the_residual_alone(self, resnet):
        loss = UnsupervisedSegmentationLoss(resnet)
        rain, scene = 0.3 * images(1, 3, 32, 32), 0.5 * images(1, 3, 32, 32, seed=1)
        assert loss(scene, scene + rain).item() == pytest.approx(loss(0 * scene, rain).item(), rel=1e-4)

    def test_darker_than_derained_is_not_rain(self, resnet):
        loss = UnsupervisedSegmentationLoss(resnet)
        rainy = images(1, 3, 32, 32)
        derained = (rainy + 0.2).requires_grad_()
        loss(derained, rainy).backward()
        assert loss(derained, rainy) == loss(rainy, rainy)
        assert (derained.grad == 0).all()


class OnBrightness(StreakFPN):
    """Takes what is brighter than one half for a streak."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = 10 * (image.mean(1) - 0.5)
        return torch.stack((-bright, bright), 1)


class TestStreaks:
    def test_pushes_what_the_network_calls_a_streak_to_background(self):
        loss = StreakSegmentationLoss(OnBrightness())
        rainy = torch.full((1, 3, 16, 16), 0.3)
        rainy[..., 8] = 0.7
        derained = rainy.clone().requires_grad_()
        loss(derained, rainy).backward()
        streak, scene = derained.grad[..., 8], derained.grad[..., :8]
        assert (streak > 0).all()
        assert streak.min() > 100 * scene.abs().max()
        assert loss(torch.full_like(rainy, 0.3), rainy) < 0.01 * loss(rainy, rainy)
