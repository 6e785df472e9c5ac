"""SSIM against that of the metrics, PSNR, and L1."""

from __future__ import annotations

import pytest
import torch

from training.losses.reconstruction import l1_each, log_mse_each, ssim_each
from training.metrics import ssim


def test_ssim_is_that_of_the_metrics_where_the_window_lies_in_the_image():
    # Equal up to 10 pixels from the border, so that all windows beyond the valid region score 1.
    reference = torch.rand(1, 3, 34, 41).double()
    image = reference.clone()
    image[..., 10:-10, 10:-10] = 0.7 * image[..., 10:-10, 10:-10] + 0.3 * torch.rand(1, 3, 14, 21).double()
    valid = ssim(*(255 * each[0].permute(1, 2, 0).numpy() for each in (image, reference)))
    assert ssim_each(image, reference).item() == pytest.approx(1 + (valid - 1) * 24 * 31 / (34 * 41), abs=1e-9)
    assert valid < 0.96


def test_log_mse_is_a_tenth_of_the_negative_psnr_and_ends_at_45_db():
    clean = torch.rand(2, 3, 8, 8).double()
    offsets = torch.tensor([0.1, 1e-4], dtype=torch.float64)[:, None, None, None]
    assert log_mse_each(clean + offsets, clean).tolist() == pytest.approx([-2.0, -4.523], abs=0.002)


@pytest.mark.parametrize("measure", [l1_each, log_mse_each, ssim_each])
def test_stages_share_a_reference(measure):
    stages, clean = torch.rand(4, 2, 3, 16, 16).double(), torch.rand(2, 3, 16, 16).double()
    each = torch.stack([torch.stack([measure(*pair) for pair in zip(stage, clean, strict=True)]) for stage in stages])
    torch.testing.assert_close(measure(stages, clean), each)


def test_gradient_is_that_of_the_function():
    derained = torch.rand(1, 2, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(ssim_each, (derained, torch.rand(1, 2, 3, 4).double()))
