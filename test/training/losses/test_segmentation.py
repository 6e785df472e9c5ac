"""Focal loss and unsupervised segmentation: values, where the gradient goes, where the network comes from."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sapnet.errors import CheckpointError
from training.losses.combined import Frozen
from training.losses.segmentation import ResNetFPN, focal_loss, residual, unsupervised_segmentation_loss


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def resnet() -> ResNetFPN:
    return ResNetFPN(pretrained=None)


@pytest.fixture(scope="module")
def loss(resnet):
    return partial(unsupervised_segmentation_loss, network=Frozen(resnet).on(torch.device("cpu")))


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


class TestUnsupervised:
    def test_is_the_focal_loss_of_the_networks_own_labels(self, loss, resnet):
        image = images(1, 3, 32, 32)
        probability = resnet(image).softmax(1).amax(1)
        expected = -((1 - probability) ** 2 * probability.log()).mean()
        assert loss(image).item() == pytest.approx(expected.item(), rel=1e-4)

    def test_gradient_reaches_the_image_and_lowers_the_loss(self, loss):
        image = images(2, 3, 33, 40).requires_grad_()
        before = loss(image)
        (gradient,) = torch.autograd.grad(before, image)
        assert (before.dtype, before.shape) == (torch.float32, ())
        assert torch.isfinite(gradient).all()
        assert loss(image - 1e-2 * gradient / gradient.norm()) < before


class TestResNetFPN:
    @pytest.mark.parametrize(("size", "quarter"), [((32, 32), (8, 8)), ((33, 18), (9, 5))])
    def test_logits_have_a_quarter_of_the_images_size(self, resnet, size, quarter):
        assert resnet(torch.rand(2, 3, *size)).shape == (2, 21, *quarter)

    def test_takes_a_folder_with_weights(self, tmp_path):
        from transformers import ResNetConfig, ResNetModel

        small = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"))
        small.save_pretrained(tmp_path)
        network = ResNetFPN(classes=4, width=6, pretrained=str(tmp_path))
        loaded = network.backbone.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in small.state_dict().items())
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 4, 8, 8)

    def test_weights_that_cannot_be_had_are_an_error(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"cannot be loaded \(.*\); give loss\.backbone a folder"):
            ResNetFPN(pretrained=str(tmp_path))


class TestResidual:
    def test_is_what_rain_added(self):
        rainy = torch.tensor([0.2, 0.8]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
        assert residual(torch.full_like(rainy, 0.5), rainy).flatten().tolist() == pytest.approx([0.0, 0.3] * 3)
