"""The published network's figures, reproduced (../shared/data)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapnet import Derainer
from sapnet.model.weights import load_weights
from training.datasets.paired import find_pairs
from training.metrics import RAINY_INPUT, network, score


@pytest.mark.parametrize("crop", ["a", "b"])
def test_official_checkpoint_reproduces_every_stage(crop, shared_data):
    reference = np.load(shared_data / "weights" / "sapnet_wacv2022_reference.npz")
    official = load_weights(shared_data / "weights" / "sapnet_wacv2022.pth")
    rainy_rgb = np.ascontiguousarray(reference[f"rainy_bgr_{crop}"][..., ::-1])
    stages = official(torch.from_numpy(rainy_rgb).permute(2, 0, 1)[None].float() / 255)[:, 0].numpy()
    expected = reference[f"stages_rgb_{crop}"]
    assert stages.shape == expected.shape == (6, 3, *rainy_rgb.shape[:2])
    assert (np.abs(stages - expected).max(axis=(1, 2, 3)) <= 1e-4).all()


def test_shipped_weights_on_heavy_rain(shared_data):
    """Against the reference figures of the data's README and the figures of the model card."""
    pairs = find_pairs(shared_data / "heavy_dev")
    with Derainer("sapnet_fast", backend="torch", device="cpu", precision="fp32") as derainer:
        figures = score(network(derainer), pairs).figures
    assert len(pairs) == 10
    assert score(RAINY_INPUT, pairs).figures["psnr_y"] == pytest.approx(13.27, abs=0.01)
    assert figures["psnr_y"] == pytest.approx(26.72, abs=0.03)
    assert figures["ssim_y"] == pytest.approx(0.791, abs=0.001)
    assert figures["f1"] == pytest.approx(0.951, abs=0.002)
    assert figures["matthews"] == pytest.approx(0.725, abs=0.002)
    assert figures["f1"] > figures["f1_all_ones"]
