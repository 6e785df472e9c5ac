"""What the backends that run the real network start from."""

from __future__ import annotations

import torch

from sapnet.backends.base import BackendSpec
from sapnet.model import DeployNet
from sapnet.model.deploy import Rewrites, rewrite
from sapnet.model.weights import load_weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_deploy_network(spec: BackendSpec, rewrites: Rewrites | None = None) -> DeployNet:
    """The deploy network with the weights and stages of ``spec``: float32, CPU, without gradients.

    rewrites: the equal form of it to be run; None for the network as it is, which is what backends are compared with.
    Raises CheckpointError.
    """
    network = load_weights(spec.weights)
    network.config = network.config.with_stages(spec.stages)
    return DeployNet(network if rewrites is None else rewrite(network, rewrites)).eval()
