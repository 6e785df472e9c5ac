"""Parity of backends and precisions on real photographs (../shared/data)."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from sapnet import Derainer
from sapnet.errors import BackendError
from sapnet.images.frame import psnr

# Parts of the pictures do: what differs between backends is arithmetic, pixel by pixel.
CROP = (slice(30, 190), slice(40, 241))


@pytest.fixture(scope="module", params=["sapnet_fast", "weights/sapnet_wacv2022.pth"])
def weights(request, shared_data):
    return str(shared_data / request.param) if "/" in request.param else request.param


@pytest.fixture(scope="module")
def frames(shared_data):
    files = [sorted((shared_data / name / "rainy").iterdir())[0] for name in ("rain100l_dev", "heavy_dev")]
    return [np.ascontiguousarray(cv2.imread(str(file))[CROP]) for file in files]


@pytest.fixture(scope="module")
def exact(weights, frames) -> Iterator[list]:
    with Derainer(weights, backend="torch", device="cpu", precision="fp32") as derainer:
        return derainer(frames)


def make(weights, backend, **settings):
    try:
        return Derainer(weights, backend=backend, **settings)
    except BackendError as err:
        pytest.skip(f"cannot run here: {err}")


@pytest.mark.parametrize(
    ("backend", "precision", "least"), [("openvino", "fp32", 77), ("torch", "bf16", 48), ("openvino", "bf16", 48)]
)
def test_agrees_with_float32_on_torch(weights, frames, exact, backend, precision, least):
    with make(weights, backend, device="cpu", precision=precision) as derainer:
        results = derainer(frames)
    for result, expected in zip(results, exact, strict=True):
        assert psnr(result.image, expected.image) >= least
        assert psnr(result.streaks, expected.streaks) >= least


def test_the_mean_of_a_camera_frame_survives_bf16(shared_data):
    """The attention's mean is over 230,400 values here; summed up in bf16 it would be far off."""
    still = cv2.imread(str(sorted((shared_data / "driving").glob("*.jpg"))[0]))
    with (
        make("sapnet_fast", "openvino", precision="bf16", stages=1) as coarse,
        make("sapnet_fast", "openvino", precision="fp32", stages=1) as fine,
    ):
        assert psnr(coarse([still])[0].image, fine([still])[0].image) >= 48
