"""PReNet (Ren et al., "Progressive Image Deraining Networks: A Better and Simpler Baseline", CVPR 2019).

SAPNet descends from it: the same head, ConvLSTM, five residual blocks and tail, without dilation and attention. Weights
are not part of this repository; those of the port to Paddle (MIT, github.com/simonsLiang/PReNet_paddle,
logs/net_latest.pdparams) load.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from sapnet.config import ModelConfig
from sapnet.model.sapnet import SAPNet

_CONFIG = ModelConfig(dilations=(1, 1, 1, 1, 1), stages=6)
_NAMES = {
    "head": ("conv0.0",),
    "lstm.gates": ("conv_i.0", "conv_f.0", "conv_g.0", "conv_o.0"),
    "tail": ("conv.0",),
    **{f"blocks.{index}.conv1": (f"res_conv{index + 1}.0",) for index in range(5)},
    **{f"blocks.{index}.conv2": (f"res_conv{index + 1}.2",) for index in range(5)},
}


class _Arrays(pickle.Unpickler):
    """Reads NumPy arrays in plain containers and nothing else: a pickle could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.empty(0).__reduce__()[0]
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,  # of NumPy 2
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        try:
            return allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"got {module}.{name}, expected NumPy arrays alone") from None


def load_prenet(path: Path) -> SAPNet:
    """PReNet with the weights of a ``.pdparams`` file, float32, on the CPU, without gradients."""
    network = SAPNet(_CONFIG)
    for block in network.blocks:
        block.attention1, block.attention2 = nn.Identity(), nn.Identity()
    with path.open("rb") as file:
        arrays = cast("dict[str, np.ndarray]", _Arrays(file).load())
    state = {
        f"{ours}.{kind}": torch.from_numpy(np.concatenate([arrays[f"{name}.{kind}"] for name in theirs]))
        for ours, theirs in _NAMES.items()
        for kind in ("weight", "bias")
    }
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()
