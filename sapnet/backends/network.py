"""What the backends that run the real network start from."""

from __future__ import annotations

import torch

from sapnet.backends.base import BackendSpec
from sapnet.model import DeployNet
from sapnet.model.weights import load_weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_deploy_network(spec: BackendSpec) -> DeployNet:
    """The deploy network with the weights and stages of ``spec``: float32, CPU, without gradients.

    Raises CheckpointError.
    """
    network = load_weights(spec.weights)
    network.config = network.config.with_stages(spec.stages)
    return DeployNet(network).eval()
