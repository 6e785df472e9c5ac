"""Mean absolute difference: known values, gradient, wrong shapes."""

from __future__ import annotations

import pytest
import torch

from training.losses.l1 import L1Loss, l1_each


def test_of_known_images():
    stages = torch.stack([torch.full((2, 3, 4, 5), level) for level in (0.25, 0.75)])
    stages[1, 1] = 0.5
    clean = torch.full((2, 3, 4, 5), 0.5)
    assert l1_each(stages, clean).tolist() == [[0.25, 0.25], [0.25, 0.0]]
    assert L1Loss()(stages[1], clean).item() == 0.125


def test_gradient_is_the_sign_of_the_difference():
    clean = torch.full((1, 3, 2, 2), 0.5)
    derained = torch.tensor([0.25, 0.75]).expand(1, 3, 2, 2).clone().requires_grad_()
    L1Loss()(derained, clean).backward()
    assert torch.equal(derained.grad, torch.tensor([-1 / 12, 1 / 12]).expand(1, 3, 2, 2))


def test_gradient_is_that_of_the_function():
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(L1Loss(), images)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"got \(1, 3, 4, 4\) and \(1, 3, 4, 5\)"):
        l1_each(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
