"""The network's shapes, dtypes, sizes and arithmetic, against plain restatements of the maths."""

from __future__ import annotations

import pytest
import torch
from state_dicts import SMALL, small
from torch.nn import functional as F

from sapnet.config import PRESETS
from sapnet.model.blocks import SeparableConv
from sapnet.model.sapnet import SAPNet, take


@pytest.mark.parametrize(
    ("preset", "count"),
    [("sapnet", 375_104), ("sapnet_wacv2022", 180_483), ("sapnet_separable", 36_863), ("sapnet_fast", 188_268)],
)
def test_parameter_counts_are_those_of_the_documentation(preset, count):
    assert sum(parameter.numel() for parameter in SAPNet(PRESETS[preset]).parameters()) == count


@pytest.mark.parametrize("coarse", [None, SMALL])
@pytest.mark.parametrize("downscale", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 23), (16, 31), (33, 20)])
def test_any_size_comes_back(downscale, height, width, coarse):
    network = small(downscale=downscale, coarse=coarse)
    rainy = torch.rand(1, 3, height, width)
    stages = network(rainy)
    assert stages.shape == (3, 1, 3, height, width)
    assert torch.equal(network.derain(rainy), stages[-1])
    for name, parameter in network.named_parameters():
        if "tail" in name:
            parameter.zero_()
    assert torch.equal(network.derain(rainy), rainy)


@pytest.mark.parametrize(("bias", "share"), [(-1e4, 0.2), (1e4, 0.8)])
def test_every_stage_refines_the_coarse_result_and_is_blended_with_it(bias, share):
    network = small(downscale=1, coarse=SMALL)
    network.blend.conv2.bias.fill_(bias)
    rainy = torch.rand(1, 3, 17, 23)
    estimate = coarse = network.coarse.derain(rainy)
    hidden = cell = torch.zeros(1, network.config.channels, 17, 23)
    for stage in network(rainy):
        hidden, cell = network.lstm(network.head(torch.cat((rainy, estimate), 1)).relu(), hidden, cell)
        estimate = rainy + network.tail(torch.nn.Sequential(*network.blocks)(hidden))
        torch.testing.assert_close(stage, torch.lerp(estimate, coarse, share))


def test_separable_heads_equal_convolutions_side_by_side():
    torch.manual_seed(0)
    fused = SeparableConv(6, 4, heads=4)
    x = torch.rand(1, 6, 9, 10)
    heads = []
    for head in range(4):
        depthwise, pointwise = (
            [values.chunk(4)[head] for values in (layer.weight, layer.bias)]
            for layer in (fused.depthwise, fused.pointwise)
        )
        heads.append(F.conv2d(F.conv2d(x, *depthwise, padding=1, groups=6), *pointwise))
    torch.testing.assert_close(fused(x), torch.cat(heads, 1))


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (3, 4), (8, 9), (5, 8), (1, 1)])
def test_take_crops_or_repeats_the_edge(rows, columns):
    x = torch.rand(2, 3, 5, 7)
    grown = F.pad(x, (0, 4, 0, 4), mode="replicate")
    assert torch.equal(take(x, rows, columns), grown[..., :rows, :columns])
