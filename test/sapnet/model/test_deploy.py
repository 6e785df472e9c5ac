"""What backends run: equal to the network in every form, on uint8 frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from state_dicts import SMALL, small

from sapnet.model.deploy import DeployNet, Form, RewrittenSAPNet
from sapnet.model.weights import load_weights

forms = pytest.mark.parametrize("form", Form)


@forms
class TestRewrite:
    @pytest.mark.parametrize("preset", ["sapnet", "sapnet_fast"])
    @pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
    def test_equals_the_last_stage_of_the_shipped_network(self, form, preset, height, width):
        network = load_weights(preset)
        rainy = torch.rand(2, 3, height, width)
        torch.testing.assert_close(RewrittenSAPNet(network, form).derain(rainy), network(rainy)[-1], rtol=0, atol=4e-7)

    def test_a_frame_smaller_than_the_dilation(self, form):
        network = small(dilations=(8, 16), downscale=1, coarse=SMALL)
        rainy = torch.rand(1, 3, 5, 9)
        torch.testing.assert_close(RewrittenSAPNet(network, form).derain(rainy), network(rainy)[-1], rtol=0, atol=4e-7)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_attention_does_not_overflow(self, form, dtype):
        """Channel means of about 3 over 38,400 pixels: in fp16 the sum would be infinite, in bf16 far off."""
        network = small(channels=4, dilations=(1,), downscale=1, stages=1)
        network.blocks[0].conv1.bias.fill_(3.0)
        rainy = torch.rand(1, 3, 160, 240)
        expected = network.derain(rainy)
        got = RewrittenSAPNet(network, form).to(dtype).derain(rainy.to(dtype))
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.01)


class TestDeployNet:
    @pytest.mark.parametrize("downscale", [1, 2])
    def test_is_the_network_on_bgr_bytes(self, downscale):
        network = small(downscale=downscale)
        frames = torch.randint(0, 256, (2, 17, 22, 3), dtype=torch.uint8)
        derained, streaks = DeployNet(network)(frames)

        rainy = frames.numpy()[..., ::-1].astype(np.float32) / 255  # RGB
        estimate = network(torch.from_numpy(rainy).permute(0, 3, 1, 2))[-1].permute(0, 2, 3, 1).numpy().clip(0, 1)
        luma = (rainy - estimate) @ np.array([0.299, 0.587, 0.114])
        self.assert_rounds_to(derained, 255 * estimate[..., ::-1])
        self.assert_rounds_to(streaks, 255 * luma.clip(0, 1))
        assert (luma < 0).any()
        assert streaks.any()

    @staticmethod
    def assert_rounds_to(got, exact):
        assert got.dtype == torch.uint8
        assert np.abs(got.numpy() - exact).max() <= 0.501
