"""Perceptual contrastive loss: its values, its gradient, and where its weights come from."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sapnet.errors import CheckpointError
from training.losses.contrastive import LAYER_WEIGHTS, load_vgg16, perceptual_contrastive_loss


def test_features_are_those_of_torchvisions_layers(vgg) -> None:
    network = load_vgg16(str(vgg))
    features = network(torch.rand(1, 3, 32, 48))
    shapes = [tuple(feature.shape) for feature in features]
    assert shapes == [(1, 64, 32, 48), (1, 128, 16, 24), (1, 256, 8, 12), (1, 512, 4, 6), (1, 512, 2, 3)]
    assert all(feature.min() == 0 for feature in features)  # after the ReLU
    state = torch.load(vgg, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert "features.24.weight" in network.state_dict()


def test_value_of_known_distances() -> None:
    derained, rainy, clean = (torch.full((1, 3, 4, 4), value) for value in (0.5, 0.9, 0.4))
    loss = perceptual_contrastive_loss(derained, rainy, clean, lambda image: [image] * 5)
    assert loss.item() == pytest.approx(sum(LAYER_WEIGHTS) * 0.1 / 0.4, rel=1e-4)
    assert perceptual_contrastive_loss(clean, rainy, clean, lambda image: [image] * 5).item() == 0


def test_gradient_leads_to_the_clean_image(vgg) -> None:
    loss = partial(perceptual_contrastive_loss, features=load_vgg16(str(vgg)))
    clean, rainy = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    derained = (0.5 * clean + 0.5 * rainy).requires_grad_()
    before = loss(derained, rainy, clean)
    (gradient,) = torch.autograd.grad(before, derained)
    assert torch.isfinite(gradient).all()
    assert loss(derained - 1e-2 * gradient / gradient.norm(), rainy, clean) < before


def test_missing_weights_are_an_error_that_says_where_to_give_them(tmp_path) -> None:
    (tmp_path / "vgg16.pth").write_bytes(b"rubbish")
    for path in ("", str(tmp_path / "vgg16.pth")):
        with pytest.raises(CheckpointError, match=r"loss\.vgg: .* holds no weights of VGG16 \(.*\); give the path of"):
            load_vgg16(path)
