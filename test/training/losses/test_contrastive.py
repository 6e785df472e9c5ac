"""Perceptual contrastive loss: its values, its gradient, and where its weights come from."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sapnet.errors import CheckpointError
from training.losses.combined import Frozen
from training.losses.contrastive import (
    LAYER_WEIGHTS,
    Vgg16,
    load_vgg16,
    perceptual_contrastive_loss,
)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vgg() -> Vgg16:
    torch.manual_seed(0)
    return Vgg16()


def test_features_halve_from_block_to_block(vgg) -> None:
    shapes = [tuple(feature.shape) for feature in vgg(images(1, 3, 32, 48))]
    assert shapes == [(1, 64, 32, 48), (1, 128, 16, 24), (1, 256, 8, 12), (1, 512, 4, 6), (1, 512, 2, 3)]


def test_value_of_known_distances() -> None:
    derained, rainy, clean = (torch.full((1, 3, 4, 4), value) for value in (0.5, 0.9, 0.4))
    loss = perceptual_contrastive_loss(derained, rainy, clean, lambda image: [image] * 5)
    assert loss.item() == pytest.approx(sum(LAYER_WEIGHTS) * 0.1 / 0.4, rel=1e-4)
    assert perceptual_contrastive_loss(clean, rainy, clean, lambda image: [image] * 5).item() == 0


def test_gradient_leads_to_the_clean_image_and_leaves_the_network_alone(vgg) -> None:
    loss = partial(perceptual_contrastive_loss, features=Frozen(vgg).on(torch.device("cpu")))
    clean, rainy = images(1, 3, 32, 32), images(1, 3, 32, 32, seed=1)
    derained = (0.5 * clean + 0.5 * rainy).requires_grad_()
    before = loss(derained, rainy, clean)
    (gradient,) = torch.autograd.grad(before, derained)
    assert before.dtype == torch.float32
    assert torch.isfinite(gradient).all()
    assert loss(derained - 1e-2 * gradient / gradient.norm(), rainy, clean) < before
    assert all(not parameter.requires_grad for parameter in vgg.parameters())


def test_weights_come_from_torchvisions_file(vgg, tmp_path) -> None:
    torch.save({**vgg.state_dict(), "classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg16.pth")
    loaded = load_vgg16(str(tmp_path / "vgg16.pth"))
    assert all(torch.equal(value, vgg.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert "features.28.weight" in loaded.state_dict()


def test_missing_weights_are_an_error_that_says_where_to_give_them(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"loss\.pcl needs .* give loss\.vgg the path"):
        load_vgg16("")
    (tmp_path / "vgg16.pth").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"not weights of VGG16"):
        load_vgg16(str(tmp_path / "vgg16.pth"))
