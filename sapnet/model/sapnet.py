"""SAPNet, and the uint8 wrapper around it that every backend runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sapnet.config import ModelConfig
from sapnet.model.blocks import ResidualBlock, make_conv
from sapnet.model.conv_lstm import ConvLSTM

LUMA_BGR = (0.114, 0.587, 0.299)


class SAPNet(nn.Module):
    """Segmentation-aware progressive network for single image deraining (Zheng et al., WACV 2022).

    Fully convolutional and recurrent: every stage takes the rainy image and the last estimate, a ConvLSTM
    carries features on, and dilated residual blocks with channel residual attention refine them. All
    stages share their weights.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        self.head = make_conv(config, 2 * config.image_channels, config.channels)
        self.lstm = ConvLSTM(config)
        self.blocks = nn.ModuleList(ResidualBlock(config, dilation) for dilation in config.dilations)
        self.tail = make_conv(config, config.channels, config.image_channels)

    def forward(self, rainy: Tensor) -> Tensor:
        """Derain.

        rainy: (B, 3, H, W), RGB in [0, 1], floating point, any device; H and W are free.
        Returns (S, B, 3, H, W): the estimate after every stage, unclamped; the last is the result.
        """
        height, width = rainy.shape[-2:]
        scale = self.config.downscale
        if scale > 1:
            rainy = F.pixel_unshuffle(pad_to_multiple(rainy, scale), scale)
        # Zeros that take their shape from the input, so that exported graphs keep it dynamic.
        hidden = torch.zeros_like(rainy[:, :1]).repeat(1, self.config.channels, 1, 1)
        cell = hidden
        estimate = rainy
        estimates = []
        for _ in range(self.config.stages):
            x = torch.relu(self.head(torch.cat((rainy, estimate), 1)))
            hidden, cell = self.lstm(x, hidden, cell)
            x = hidden
            for block in self.blocks:
                x = block(x)
            estimate = rainy + self.tail(x)
            estimates.append(estimate)
        stages = torch.stack(estimates)  # (S, B, 3 * scale^2, H / scale, W / scale)
        if scale > 1:
            stages = F.pixel_shuffle(stages, scale)[..., :height, :width]
        return stages


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with the last row and column repeated until height and width divide by ``multiple``.

    Written as a gather because that is the one form whose amount of padding may stay symbolic in an export.
    """
    height, width = x.shape[-2:]
    padded_height = (height + multiple - 1) // multiple * multiple
    padded_width = (width + multiple - 1) // multiple * multiple
    rows = torch.arange(padded_height, device=x.device).clamp(max=height - 1)
    columns = torch.arange(padded_width, device=x.device).clamp(max=width - 1)
    return x.index_select(2, rows).index_select(3, columns)


class DeployNet(nn.Module):
    """What backends run: uint8 frames in, uint8 frames and streak strengths out.

    The first operation is the cast from uint8 and the last ones are casts to it, which is all that
    TensorRT allows a uint8 tensor to feed. The network itself runs in the precision of its parameters.
    """

    luma: Tensor

    def __init__(self, network: SAPNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("luma", torch.tensor(LUMA_BGR).reshape(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Derain frames.

        frames: uint8 (B, H, W, 3), BGR.
        Returns the derained frames, uint8 (B, H, W, 3) BGR, and the streaks, uint8 (B, H, W):
        ``round(255 * max(0, luma(rainy) - luma(derained)))``. Rain only brightens, so darker is not rain.
        """
        dtype = next(self.network.parameters()).dtype
        rainy = frames.to(torch.float32).permute(0, 3, 1, 2) / 255.0  # (B, 3, H, W) BGR
        estimate = self.network(rainy.flip(1).to(dtype))[-1].flip(1)
        derained = estimate.to(torch.float32).clamp(0.0, 1.0)
        luma = self.luma.to(torch.float32)
        streaks = ((rainy - derained) * luma).sum(1).clamp(0.0, 1.0)  # (B, H, W)
        return (
            (derained.permute(0, 2, 3, 1) * 255.0).round().to(torch.uint8),
            (streaks * 255.0).round().to(torch.uint8),
        )
