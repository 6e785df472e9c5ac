"""Following a teacher: what is asked for, where the gradient goes, where the teacher is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sapnet.config import ModelConfig
from sapnet.model.sapnet import SAPNet
from training.losses.distill import DistillationLoss
from training.losses.frozen import Frozen


@pytest.fixture(scope="module")
def teacher() -> SAPNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SAPNet(ModelConfig(channels=16, stages=1))


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_is_the_distance_from_what_the_teacher_derains(teacher):
    rainy = images(0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = teacher.derain(rainy).float().clamp(0, 1)
    loss = DistillationLoss(teacher)
    assert loss(wanted, rainy).item() == 0
    assert loss(wanted + 0.25, rainy).item() == pytest.approx(0.25)


def test_gradient_reaches_the_derained_image_and_not_the_teacher(teacher):
    derained = images(1).requires_grad_()
    loss = DistillationLoss(teacher)
    value = loss(derained, images(0))
    value.backward()
    assert (value.dtype, value.shape) == (torch.float32, ())
    assert torch.isfinite(derained.grad).all()
    assert (derained.grad != 0).float().mean() > 0.99
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert not list(loss.parameters())


def test_a_frozen_network_goes_where_the_images_are():
    # Lightning moves a module's own networks only, and after it has made the loss.
    frozen = Frozen(nn.Conv2d(3, 3, 1))
    with torch.inference_mode():
        moved = frozen.on(torch.device("meta"))
    assert moved.weight.device == torch.device("meta")
    assert not moved.weight.is_inference()
    assert frozen.on(torch.device("meta")) is moved


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
def test_on_a_gpu_gives_what_it_gives_on_the_cpu(teacher):
    derained, rainy = images(1), images(0)
    expected = DistillationLoss(teacher)(derained, rainy).item()
    assert DistillationLoss(teacher)(derained.cuda(), rainy.cuda()).item() == pytest.approx(expected, abs=1e-3)
    teacher.cpu()
