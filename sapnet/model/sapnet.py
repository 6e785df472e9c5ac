"""SAPNet, as the paper defines it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sapnet.config import ModelConfig
from sapnet.model.blocks import Blend, ConvLSTM, ResidualBlock, make_conv


class SAPNet(nn.Module):
    """Segmentation-aware progressive network for single image deraining (Zheng et al., WACV 2022).

    Fully convolutional and recurrent: every stage takes the rainy image and the last estimate, a ConvLSTM
    carries features on, and dilated residual blocks with channel residual attention refine them. All stages
    share their weights. With ``config.coarse`` (ours), the first stage takes a second network's result for the last
    estimate, and each estimate that is returned is blended with it; the next stage takes the estimate itself.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        image_channels = 3 * config.downscale**2  # RGB after pixel unshuffling
        self.head = make_conv(config, 2 * image_channels, config.channels)
        self.lstm = ConvLSTM(config)
        self.blocks = nn.ModuleList(ResidualBlock(config, dilation) for dilation in config.dilations)
        self.tail = make_conv(config, config.channels, image_channels)
        if config.coarse:
            self.coarse = SAPNet(config.coarse)
            self.blend = Blend(config, image_channels)

    def forward(self, rainy: Tensor) -> Tensor:
        """Derain, and show every step.

        rainy: (B, 3, H, W), RGB in [0, 1], floating point, any device; H and W are free.
        Returns (S, B, 3, H, W): the estimate after every stage, unclamped; the last is the result.
        """
        return torch.stack([to_image(estimate, self.config.downscale, rainy) for estimate in self._estimates(rainy)])

    def derain(self, rainy: Tensor) -> Tensor:
        """The last stage of ``forward`` alone, (B, 3, H, W), without the work of showing the others."""
        return to_image(self._estimates(rainy)[-1], self.config.downscale, rainy)

    def _estimates(self, image: Tensor) -> list[Tensor]:
        """The estimate of every stage as the network works on it, (B, 3 * scale^2, H / scale, W / scale)."""
        estimate = rainy = from_image(image, self.config.downscale)
        # Zeros that take their shape from the input, so that exported graphs keep it dynamic.
        hidden = torch.zeros_like(rainy[:, :1]).repeat(1, self.config.channels, 1, 1)
        cell = hidden
        estimates = []
        if self.config.coarse:
            estimate = coarse = from_image(self.coarse.derain(image), self.config.downscale)
        for _ in range(self.config.stages):
            x = torch.relu(self.head(torch.cat((rainy, estimate), 1)))
            hidden, cell = self.lstm(x, hidden, cell)
            x = hidden
            for block in self.blocks:
                x = block(x)
            estimate = rainy + self.tail(x)
            estimates.append(self.blend(x, rainy, estimate, coarse) if self.config.coarse else estimate)
        return estimates


def from_image(image: Tensor, scale: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3 * scale^2, H / scale, W / scale), the last row and column repeated where needed."""
    if scale == 1:
        return image
    height, width = image.shape[-2:]
    rows = (height + scale - 1) // scale * scale
    columns = (width + scale - 1) // scale * scale
    return F.pixel_unshuffle(take(image, rows, columns), scale)


def to_image(x: Tensor, scale: int, image: Tensor) -> Tensor:
    """The inverse of ``from_image``, of the height and width of ``image``."""
    return x if scale == 1 else take(F.pixel_shuffle(x, scale), *image.shape[-2:])


def take(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) -> (B, C, rows, columns): cropped, or grown by repeating the last row and column.

    Written as a gather: padding or slicing by a symbolic amount would tie an export to sizes as odd or even
    as the example's.
    """
    height, width = x.shape[-2:]
    row = torch.arange(rows, device=x.device).clamp(max=height - 1)
    column = torch.arange(columns, device=x.device).clamp(max=width - 1)
    return x.index_select(2, row).index_select(3, column)
