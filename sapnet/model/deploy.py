"""The network as backends run it: equal to ``SAPNet.derain``, with fewer operations, and uint8 on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sapnet.model.blocks import ChannelResidualAttention, ResidualBlock
from sapnet.model.sapnet import SAPNet, from_image, to_image
from sapnet.model.weights import load_weights

# By dilation, what a convolution's taps see of a frame: rows and columns.
Taps = Mapping[int, tuple[Tensor, Tensor]]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of frames that exporters trace the network with: odd and more than one, so that no size can pass for a constant of it.
EXAMPLE_SHAPE = (2, 17, 19, 3)


class Form(Enum):
    """Forms of the network's operations. All give the same result up to rounding; which is fastest depends on the host.

    OPENVINO: the gates are the sum of a convolution of the features and one of the hidden state, instead of one
        convolution of both concatenated.
    ENGINE: the mean that the attention needs is computed from the input of the convolution, so that scale, ReLU and
        residual can fuse into the convolution; and its matrices are applied as a float32 product and sum instead of as
        1x1 convolutions, which fuse into one kernel.
    CUDA: the bias of a convolution is added together with the attention's scale, and its mean is accumulated in float32
        without a cast, as every operation of eager torch is a pass over memory.
    CPU: none of these; as in all, the first stage leaves out the work on zeros.
    """

    OPENVINO, ENGINE, CUDA, CPU = "openvino", "engine", "cuda", "cpu"


class RewrittenSAPNet(nn.Module):
    """A float32 SAPNet of dense convolutions, whose first stage leaves out the work on what is equal or zero in it.

    Without a coarse network, the first estimate is the rainy image, so that the head's two halves add up to one; hidden
    and cell are zero, so that the gates see the features alone and there is nothing to forget.
    """

    def __init__(self, network: SAPNet, form: Form) -> None:
        super().__init__()
        self.form = form
        self.config = config = network.config
        self.head = head = cast(nn.Conv2d, network.head)
        of_rainy, of_estimate = head.weight.chunk(2, 1)
        self.first_head = head if config.coarse else _conv(of_rainy + of_estimate, head.bias)
        gates = cast(nn.Conv2d, network.lstm.gates)
        of_features, of_hidden = gates.weight.chunk(2, 1)
        bias = cast(Tensor, gates.bias)
        i, _, g, o = torch.arange(4 * config.channels).chunk(4)
        kept = torch.cat((i, g, o))
        self.first_gates = _conv(of_features[kept], bias[kept])
        if form is Form.OPENVINO:
            self.gates_of_features, self.gates_of_hidden = _conv(of_features, bias), _conv(of_hidden, None)
        else:
            self.gates = gates
        self.blocks = nn.ModuleList(
            AttendedConv(cast(nn.Conv2d, conv), attention, form)
            for block in cast(Iterable[ResidualBlock], network.blocks)
            for conv, attention in ((block.conv1, block.attention1), (block.conv2, block.attention2))
        )
        self.tail = network.tail
        if config.coarse:
            self.coarse = RewrittenSAPNet(network.coarse, form)
            self.blend = network.blend

    def derain(self, image: Tensor) -> Tensor:
        """As ``SAPNet.derain``: RGB in [0, 1], (B, 3, H, W) -> the last stage's estimate, same shape, unclamped."""
        rainy = from_image(image, self.config.downscale)
        # Made once for a frame: operations make exports slow.
        steps = self.config.dilations if self.form is Form.ENGINE else ()
        taps = {step: _see(rainy, step) for step in steps}
        coarse = from_image(self.coarse.derain(image), self.config.downscale) if self.config.coarse else None
        x = torch.relu(self.first_head(rainy if coarse is None else torch.cat((rainy, coarse), 1)))
        i, g, o = self.first_gates(x).chunk(3, 1)
        cell = torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        x, estimate = self._refine(rainy, hidden, taps)
        for _ in range(self.config.stages - 1):
            x = torch.relu(self.head(torch.cat((rainy, estimate), 1)))
            if self.form is Form.OPENVINO:
                gates = self.gates_of_features(x) + self.gates_of_hidden(hidden)
            else:
                gates = self.gates(torch.cat((x, hidden), 1))
            i, f, g, o = gates.chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            x, estimate = self._refine(rainy, hidden, taps)
        if coarse is not None:
            estimate = self.blend(x, rainy, estimate, coarse)
        return to_image(estimate, self.config.downscale, image)

    def _refine(self, rainy: Tensor, x: Tensor, taps: Taps) -> tuple[Tensor, Tensor]:
        """What a stage does with the hidden state: the last features and the next estimate."""
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = torch.relu(second(first(x, taps), taps) + x)
        return x, rainy + self.tail(x)


def _see(frame: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The rows, (3, H, 1, 1), and columns, (3, W, 1), that taps shifted by ``-step``, 0 and ``step`` see of a frame.

    What is seen is 1 over the side's length, so that a sum over it is a mean; the rest is 0. Float32.
    """
    seen = []
    for size in frame.shape[-2:]:
        at = torch.arange(size, device=frame.device)
        seen.append(torch.stack((at < size - step, at >= 0, at >= step)).to(torch.float32) / size)
    rows, columns = seen
    return rows[..., None, None], columns[..., None]


class AttendedConv(nn.Module):
    """``relu(attention(conv(x)))``."""

    def __init__(self, conv: nn.Conv2d, attention: ChannelResidualAttention, form: Form) -> None:
        super().__init__()
        self.conv = conv
        self.attention = attention
        self.form = form

    def forward(self, x: Tensor, taps: Taps) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.form is Form.ENGINE:
            return torch.relu(self._folded_gate(x, taps).to(x.dtype) * self.conv(x))
        if self.form is Form.CUDA:
            conv, bias = self.conv, cast(Tensor, self.conv.bias)[:, None, None]
            y = F.conv2d(x, conv.weight, padding=conv.dilation, dilation=conv.dilation)
            mean = y.mean((2, 3), keepdim=True, dtype=torch.float32) + bias
            gate = self.attention.gate(mean.to(x.dtype))
            return torch.relu(torch.addcmul(gate * bias, gate, y))
        return torch.relu(self.attention(self.conv(x)))

    def _folded_gate(self, x: Tensor, taps: Taps) -> Tensor:
        """The attention's gate of ``conv(x)``, float32 (B, C, 1, 1), without that.

        A tap of the convolution sees ``x`` but for the rows and columns that its shift moves out of the frame. What it
        sees is summed by products with ones and zeros: sums of slices would keep TensorRT from fusing what follows the
        convolution that made ``x``.
        """
        rows, columns = taps[self.conv.dilation[0]]
        seen = (columns * x.to(torch.float32).permute(0, 2, 3, 1).unsqueeze(2)).sum(3)  # (B, H, 3, C)
        seen = (rows * seen.unsqueeze(1)).sum(2).flatten(1)  # (B, 9 * C)
        mean = _times(self.conv.weight.permute(0, 2, 3, 1), seen) + cast(Tensor, self.conv.bias)  # (B, C)
        attention = self.attention
        squeezed = torch.relu(_times(attention.squeeze.weight, mean))
        gate = torch.sigmoid(_times(attention.expand.weight, squeezed) + _times(attention.skip.weight, mean))
        return gate.unsqueeze(2).unsqueeze(3)


def _times(weight: Tensor, x: Tensor) -> Tensor:
    """``weight`` (C, ...), flattened to a float32 matrix, times each row of ``x``, (B, N) -> (B, C), in one kernel."""
    return (weight.flatten(1).to(torch.float32) * x.unsqueeze(1)).sum(2)


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A size-preserving 3x3 convolution with these weights."""
    out_channels, in_channels = weight.shape[:2]
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, device="meta")
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return conv


class DeployNet(nn.Module):
    """What backends run: uint8 frames in, uint8 frames and streak strengths out.

    The first operation is the cast from uint8 and the last ones are casts to it, which is all that
    TensorRT allows a uint8 tensor to feed. The network itself runs in the precision of its parameters.
    """

    def __init__(self, network: SAPNet | RewrittenSAPNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Derain frames.

        frames: uint8 (B, H, W, 3), BGR.
        Returns the derained frames, uint8 (B, H, W, 3) BGR, and the streaks, uint8 (B, H, W):
        ``round(255 * max(0, luma(rainy) - luma(derained)))``. Rain only brightens, so darker is not rain.
        """
        dtype = next(self.network.parameters()).dtype
        rainy = frames.to(torch.float32).permute(0, 3, 1, 2) / 255.0  # (B, 3, H, W) BGR
        estimate = self.network.derain(rainy.flip(1).to(dtype)).flip(1)
        derained = estimate.to(torch.float32).clamp(0.0, 1.0)
        blue, green, red = (rainy - derained).unbind(1)
        streaks = (0.114 * blue + 0.587 * green + 0.299 * red).clamp(0.0, 1.0)  # (B, H, W)
        return (
            (derained.permute(0, 2, 3, 1) * 255.0).round().to(torch.uint8),
            (streaks * 255.0).round().to(torch.uint8),
        )


def load_deploy_network(weights: str | Path, stages: int = 0, form: Form | None = None) -> DeployNet:
    """The deploy network with its weights, for ``stages`` recurrences: float32, CPU, without gradients.

    stages: 0 for the preset's own. form: the equal one of it to be run, where it is not separable; None for the network
    as it is, which is what backends are compared with. Raises CheckpointError.
    """
    network = load_weights(weights)
    network.config = network.config.with_stages(stages)
    return DeployNet(RewrittenSAPNet(network, form) if form and not network.config.separable else network).eval()
