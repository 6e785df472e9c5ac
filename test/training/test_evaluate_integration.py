"""The reference figures of the data's README, reproduced (../shared/data)."""

from __future__ import annotations

import pytest

from sapnet import Derainer
from training.datasets.paired import find_pairs
from training.scores import network, rainy_input, score


def test_official_checkpoint_on_heavy_rain(shared_data):
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")
    weights = shared_data / "weights" / "sapnet_wacv2022.pth"
    pairs = find_pairs(shared_data / "rain100h_dev")
    with Derainer(weights, backend="openvino", precision="fp32") as derainer:
        derained, rainy = score(network(derainer), pairs).figures, score(rainy_input(), pairs).figures
    assert len(pairs) == 3
    assert rainy["psnr_y"] == pytest.approx(14.08, abs=0.02)
    assert rainy["ssim_y"] == pytest.approx(0.331, abs=0.001)
    assert derained["psnr_y"] == pytest.approx(29.14, abs=0.02)
    assert derained["ssim_y"] == pytest.approx(0.865, abs=0.001)
