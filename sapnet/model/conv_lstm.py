"""Convolutional LSTM: carries features from stage to stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sapnet.config import ModelConfig
from sapnet.model.blocks import make_conv


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
