"""SSIM against scikit-image, and as a loss."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from training.losses.ssim import NegativeSSIM, ssim, ssim_each


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_of_equal_images_is_one():
    image = images(2, 3, 20, 23)
    assert ssim(image, image).item() == pytest.approx(1.0)
    assert NegativeSSIM()(image, image).item() == pytest.approx(-1.0)


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
    assert ssim(image, reference).item() == pytest.approx(whole.item(), abs=1e-9)
    assert whole < 0.98


def test_stages_share_a_reference():
    stages, clean = images(4, 2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    each = torch.stack([torch.stack([ssim(*pair) for pair in zip(stage, clean, strict=True)]) for stage in stages])
    torch.testing.assert_close(ssim_each(stages, clean), each)
    torch.testing.assert_close(ssim(stages, clean), each.mean())


def test_is_symmetric_and_falls_with_the_difference():
    clean, other = images(1, 3, 24, 24), images(1, 3, 24, 24, seed=1)
    assert ssim(clean, other).item() == pytest.approx(ssim(other, clean).item())
    scores = [ssim(clean + share * (other - clean), clean).item() for share in (0.0, 0.1, 0.3, 1.0)]
    assert scores == sorted(scores, reverse=True)


def test_gradient_is_that_of_the_function():
    derained = images(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(ssim, (derained, images(1, 2, 3, 4, seed=1)))


def test_a_step_against_the_gradient_comes_closer():
    derained, clean = images(1, 3, 16, 16).requires_grad_(), images(1, 3, 16, 16, seed=1)
    loss = NegativeSSIM()(derained, clean)
    (gradient,) = torch.autograd.grad(loss, derained)
    assert torch.isfinite(gradient).all()
    assert NegativeSSIM()(derained - 10 * gradient, clean) < loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_the_images(dtype):
    image = images(1, 3, 16, 16).to(dtype)
    assert ssim(image, image).dtype == dtype


def test_images_of_two_sizes():
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) and \(1, 3, 16, 18\)"):
        ssim(images(1, 3, 16, 16), images(1, 3, 16, 18))
