"""The edge loss, and canny's edges beside it."""

from __future__ import annotations

import pytest
import torch

from training.losses.edge import edge_agreement, edge_loss


def step(side: int = 24, at: int = 12, height: float = 1.0) -> torch.Tensor:
    """Dark on the left, brighter by ``height`` on the right, half of it in column ``at`` between."""
    image = torch.zeros(1, 3, side, side)
    image[..., at] = height / 2
    image[..., at + 1 :] = height
    return image


class TestEdgeLoss:
    def test_of_equal_images_is_zero_and_so_is_its_gradient(self):
        clean = torch.rand(2, 3, 16, 17).double()
        derained = clean.clone().requires_grad_()
        loss = edge_loss(derained, clean)
        loss.backward()
        assert loss.item() == 0
        assert (derained.grad == 0).all()

    def test_of_a_step_is_its_height(self):
        """Smoothing spreads a step over many columns and Sobel by two, neither changes its whole height."""
        loss = edge_loss(step(height=0.5), torch.zeros(1, 3, 24, 24))
        assert loss.item() == pytest.approx(0.5 / 24, abs=1e-3)  # the mean over 24 columns; 1e-3 is the root's epsilon

    @pytest.mark.parametrize(("channel", "weight"), [(0, 0.299), (1, 0.587), (2, 0.114)])
    def test_colours_count_by_their_luma(self, channel, weight):
        coloured = torch.zeros(1, 3, 24, 24)
        coloured[:, channel] = step()[:, channel]
        assert edge_loss(coloured, step(height=weight)).item() == pytest.approx(0, abs=1e-6)

    def test_gradient_is_that_of_the_function(self):
        derained = torch.rand(1, 3, 4, 5).double().requires_grad_()
        clean = torch.rand(1, 3, 4, 5).double()
        assert torch.autograd.gradcheck(lambda image: edge_loss(image, clean, sigma=0.6), derained)

    def test_gradient_reaches_a_flat_image_and_is_finite_there(self):
        derained = torch.full((1, 3, 24, 24), 0.5, requires_grad=True)
        edge_loss(derained + 1e-4 * step(), step()).backward()
        assert torch.isfinite(derained.grad).all()
        assert derained.grad.abs().sum() > 0
        flat = torch.full((1, 3, 24, 24), 0.5, requires_grad=True)
        edge_loss(flat, step()).backward()
        assert torch.isfinite(flat.grad).all()


def test_agreement_of_edges_is_f1():
    flat = torch.full((1, 3, 24, 24), 0.5)
    assert edge_agreement(step(), step()).item() == edge_agreement(flat, flat).item() == 1
    assert edge_agreement(step(at=8), step(at=16)).item() == 0
    half = torch.cat((step(), step()), 0)
    assert edge_agreement(half, torch.cat((step(), 0 * step()), 0)).item() == pytest.approx(2 / 3)
