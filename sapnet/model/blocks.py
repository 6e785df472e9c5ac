"""Convolutions and the residual block with channel residual attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sapnet.config import ModelConfig


class SeparableConv(nn.Module):
    """Depthwise 3x3, then pointwise: ``heads`` independent ones side by side on the same input.

    Several heads run as one grouped convolution, which keeps the four gates of the ConvLSTM one call.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        wide = in_channels * heads
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=dilation, dilation=dilation, groups=wide)
        self.pointwise = nn.Conv2d(wide, out_channels * heads, 1, groups=heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels * heads, H, W)."""
        if self.heads > 1:
            x = x.repeat(1, self.heads, 1, 1)
        return self.pointwise(self.depthwise(x))  # type: ignore[no-any-return]


def make_conv(config: ModelConfig, in_channels: int, out_channels: int, dilation: int = 1, heads: int = 1) -> nn.Module:
    """A size-preserving 3x3 convolution of the kind that ``config`` asks for, with ``heads`` outputs stacked."""
    if config.separable:
        return SeparableConv(in_channels, out_channels, dilation, heads)
    return nn.Conv2d(in_channels, out_channels * heads, 3, padding=dilation, dilation=dilation)


class ChannelResidualAttention(nn.Module):
    """Scales each channel by a gate made of its global mean: squeeze and expand, plus a direct 1x1 path."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.expand = nn.Conv2d(channels // reduction, channels, 1, bias=False)
        self.skip = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        # In float32: the sum over a camera frame exceeds what fp16 can hold (65,504). The cast is an operation of its
        # own because an export to ONNX puts that of ``mean(dtype=...)`` behind the sum.
        mean = x.to(torch.float32).mean((2, 3), keepdim=True)
        return x * self.gate(mean.to(x.dtype))

    def gate(self, mean: Tensor) -> Tensor:
        """The scale of each channel from its mean, (B, C, 1, 1) -> (B, C, 1, 1)."""
        return torch.sigmoid(self.expand(torch.relu(self.squeeze(mean))) + self.skip(mean))


class ResidualBlock(nn.Module):
    """``relu(body(x) + x)`` with two convolutions, each followed by attention and a ReLU."""

    def __init__(self, config: ModelConfig, dilation: int) -> None:
        super().__init__()
        channels = config.channels
        self.conv1 = make_conv(config, channels, channels, dilation)
        self.attention1 = ChannelResidualAttention(channels, config.reduction)
        self.conv2 = make_conv(config, channels, channels, dilation)
        self.attention2 = ChannelResidualAttention(channels, config.reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = torch.relu(self.attention1(self.conv1(x)))
        y = torch.relu(self.attention2(self.conv2(y)))
        return torch.relu(y + x)


class Blend(nn.Module):
    """Blends two estimates of one image by a map of the second one's share, 0.2 to 0.8 in each pixel."""

    def __init__(self, config: ModelConfig, image_channels: int) -> None:
        super().__init__()
        self.conv1 = make_conv(config, config.channels + 3 * image_channels, 16)
        self.attention = ChannelResidualAttention(16, config.reduction)
        self.conv2 = make_conv(config, 16, 1)

    def forward(self, x: Tensor, rainy: Tensor, estimate: Tensor, coarse: Tensor) -> Tensor:
        """x: the features behind ``estimate``, (B, C, H, W); the others and the result: (B, image_channels, H, W)."""
        y = torch.relu(self.attention(self.conv1(torch.cat((x, rainy, estimate, coarse), 1))))
        # Neither is left out: as the two err differently, a mean is often better than the better one.
        return estimate + (0.2 + 0.6 * torch.sigmoid(self.conv2(y))) * (coarse - estimate)


class ConvLSTM(nn.Module):
    """ConvLSTM cell (Shi et al., 2015, without peepholes): one convolution for the four gates i, f, g, o."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gates = make_conv(config, 2 * config.channels, config.channels, heads=4)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Features, hidden and cell, each (B, C, H, W) -> the next hidden and cell, same shapes."""
        i, f, g, o = self.gates(torch.cat((x, hidden), 1)).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return hidden, cell
