"""Networks and the state dicts of foreign layouts, for tests of weights."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from sapnet.config import ModelConfig
from sapnet.model.sapnet import SAPNet

SMALL = ModelConfig(channels=8, reduction=4, dilations=(1, 2), downscale=2, stages=3)


def make(config: ModelConfig = SMALL, seed: int = 0) -> SAPNet:
    torch.manual_seed(seed)
    return SAPNet(config)


def small(**changes: Any) -> SAPNet:
    """SMALL with changes, ready to run."""
    return make(replace(SMALL, **changes)).eval().requires_grad_(False)


def official_state(network: SAPNet, prefix: str = "module.") -> dict[str, torch.Tensor]:
    """The published code's names for ``network``'s weights, spelled out here once more, for both its variants."""
    state = {}
    for key, tensor in network.state_dict().items():
        name = key.replace("depthwise", "depth_conv").replace("pointwise", "point_conv")
        name = re.sub(r"^head\.", "conv0.0.", name)
        name = re.sub(r"^tail\.", "conv.0.", name)
        name = re.sub(r"^blocks\.(\d)\.", lambda match: f"res_conv{int(match[1]) + 1}.", name)
        name = name.replace(".conv1.", ".0.").replace(".conv2.", ".3.")
        name = name.replace(".attention1.", ".1.").replace(".attention2.", ".4.")
        name = name.replace("squeeze", "conv_du.0").replace("expand", "conv_du.2").replace("skip", "conv_1_1")
        if name.startswith("lstm.gates."):
            for gate, part in zip("ifgo", tensor.chunk(4), strict=True):
                state[prefix + name.replace("lstm.gates.", f"conv_{gate}.0.")] = part.clone()
        else:
            state[prefix + name] = tensor
    return state
