"""The reference figures of the data's README, reproduced (../shared/data)."""

from __future__ import annotations

import pytest

from sapnet import Derainer
from training.evaluate import evaluate


def test_official_checkpoint_on_heavy_rain(shared_data):
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")
    weights = shared_data / "weights" / "sapnet_wacv2022.pth"
    with Derainer(weights, backend="openvino", precision="fp32") as derainer:
        figures = evaluate(derainer, shared_data / "rain100h_dev")
    assert figures["images"] == 3
    assert figures["psnr_rainy"] == pytest.approx(14.08, abs=0.02)
    assert figures["ssim_rainy"] == pytest.approx(0.331, abs=0.001)
    assert figures["psnr"] == pytest.approx(29.14, abs=0.02)
    assert figures["ssim"] == pytest.approx(0.865, abs=0.001)
