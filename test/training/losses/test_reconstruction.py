"""SSIM against scikit-image, PSNR, and L1."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from training.losses.reconstruction import l1_each, log_mse_each, ssim_each


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_is_scikit_images_where_the_window_lies_in_the_image():
    # Equal up to 10 pixels from the border, so that all windows beyond the valid region score 1.
    reference, image = images(1, 3, 34, 41), images(1, 3, 34, 41)
    image[..., 10:-10, 10:-10] = 0.7 * image[..., 10:-10, 10:-10] + 0.3 * images(1, 3, 14, 21, seed=1)
    _, similarity = structural_similarity(
        image[0].numpy(),
        reference[0].numpy(),
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    valid = torch.from_numpy(similarity)[:, 5:-5, 5:-5]
    whole = (valid.sum() + 3 * 34 * 41 - valid.numel()) / (3 * 34 * 41)
    assert ssim_each(image, reference).item() == pytest.approx(whole.item(), abs=1e-9)
    assert whole < 0.98


def test_log_mse_is_a_tenth_of_the_negative_psnr_and_ends_at_45_db():
    clean = images(2, 3, 8, 8)
    offsets = torch.tensor([0.1, 1e-4], dtype=torch.float64)[:, None, None, None]
    assert log_mse_each(clean + offsets, clean).tolist() == pytest.approx([-2.0, -4.523], abs=0.002)


@pytest.mark.parametrize("measure", [l1_each, log_mse_each, ssim_each])
def test_stages_share_a_reference(measure):
    stages, clean = images(4, 2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    each = torch.stack([torch.stack([measure(*pair) for pair in zip(stage, clean, strict=True)]) for stage in stages])
    torch.testing.assert_close(measure(stages, clean), each)


def test_gradient_is_that_of_the_function():
    derained = images(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(ssim_each, (derained, images(1, 2, 3, 4, seed=1)))
