"""Focal loss and unsupervised segmentation: values, where the gradient goes, where the network comes from."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sapnet.errors import CheckpointError
from training.losses.segmentation import ResNetFPN, focal_loss, unsupervised_segmentation_loss


@pytest.fixture
def resnet(backbone: str) -> ResNetFPN:
    return ResNetFPN(backbone).eval().requires_grad_(False)


class TestFocalLoss:
    def test_without_gamma_is_cross_entropy(self):
        logits, target = torch.rand(2, 5, 4, 3), torch.randint(5, (2, 4, 3))
        assert focal_loss(logits, target, gamma=0).item() == pytest.approx(F.cross_entropy(logits, target).item())

    def test_of_a_known_probability(self):
        logits = torch.tensor([math.log(0.8 / 0.2), 0.0]).view(1, 2, 1, 1)
        loss = focal_loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64), 3.5)
        assert loss.item() == pytest.approx(-(0.2**3.5) * math.log(0.8), rel=1e-5)

    def test_of_certainty_is_zero_with_a_finite_gradient(self):
        for sure in (100.0, -100.0):
            logits = torch.tensor([sure, 0.0]).view(1, 2, 1, 1).requires_grad_()
            loss = focal_loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64))
            loss.backward()
            assert loss.item() == pytest.approx(max(-sure, 0.0))
            assert torch.isfinite(logits.grad).all()


def test_is_the_focal_loss_of_the_networks_own_labels_and_its_gradient_lowers_it(resnet):
    image = torch.rand(2, 3, 33, 40).requires_grad_()
    probability = resnet(image).softmax(1).amax(1)
    loss = unsupervised_segmentation_loss(image, resnet)
    assert loss.item() == pytest.approx(-((1 - probability) ** 2 * probability.log()).mean().item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, image)
    assert torch.isfinite(gradient).all()
    assert unsupervised_segmentation_loss(image - 1e-2 * gradient / gradient.norm(), resnet) < loss


@pytest.mark.parametrize(("size", "quarter"), [((32, 32), (8, 8)), ((33, 18), (9, 5))])
def test_logits_have_a_quarter_of_the_images_size_and_are_the_same_each_time(resnet, backbone, size, quarter):
    image = torch.rand(2, 3, *size)
    logits = resnet(image)
    assert logits.shape == (2, 21, *quarter)
    assert torch.equal(ResNetFPN(backbone).eval()(image), logits)


def test_weights_are_loaded_or_it_is_said_where_to_give_them(resnet, backbone, tmp_path):
    from transformers import ResNetModel

    given = ResNetModel.from_pretrained(backbone).state_dict()
    assert all(torch.equal(value, given[name]) for name, value in resnet.backbone.state_dict().items())
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(.*\); give loss\.backbone a folder"):
        ResNetFPN(str(tmp_path))
