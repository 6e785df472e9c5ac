"""Networks that judge and are not trained."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Frozen(Generic[Network]):
    """A network in float32, without gradients of its own, wherever the images are.

    Not a Module, so that the loss which holds it, and the trainer around that, cannot train it, set it to training
    mode, cast it, or save it with the weights. Hence it is not moved with them, either.
    """

    def __init__(self, network: Network) -> None:
        self._network = network.float().eval().requires_grad_(False)

    def on(self, device: torch.device) -> Network:
        """The network, moved to ``device`` if it is elsewhere."""
        if next(self._network.parameters()).device != device:
            # Moved during a validation they would be inference tensors, which no later backward may use.
            with torch.inference_mode(False):
                self._network.to(device)
        return self._network
