"""Perceptual contrastive loss ``pcl`` of WACV 2022: near the clean image, far from the rainy one, in VGG16 features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sapnet.errors import CheckpointError, first_line

Features = Callable[[Tensor], Sequence[Tensor]]

# Channels of VGG16's convolutions (Simonyan and Zisserman, ICLR 2015), a maximum over 2x2 pixels between the blocks.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Early features differ most between images; as in AECR-Net (Wu et al., CVPR 2021).
LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Where neither image differs from the derained one.
_LEAST = 1e-7


class Vgg16(nn.Module):
    """The features of VGG16 after the first ReLU of each block, with torchvision's names of parameters."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._taps: list[int] = []
        channels = 3
        for block in _BLOCKS:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for index, outputs in enumerate(block):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
                channels = outputs
                if index == 0:
                    self._taps.append(len(layers) - 1)
        self.features = nn.ModuleList(layers)
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W) RGB in [0, 1], sides of at least 16. Returns five tensors (B, C, H / 2^i, W / 2^i)."""
        x, tapped = (image - self.mean) / self.std, []
        for index, layer in enumerate(self.features[: self._taps[-1] + 1]):
            x = layer(x)
            if index in self._taps:
                tapped.append(x)
        return tapped


def load_vgg16(path: str) -> Vgg16:
    """VGG16 with the ImageNet weights in a file of torchvision's, such as ``vgg16-397923af.pth``.

    Raises CheckpointError that says where they are to be given.
    """
    advice = "give loss.vgg the path of torchvision's VGG16 weights (vgg16-397923af.pth)"
    if not path:
        raise CheckpointError(f"loss.pcl needs the ImageNet weights of VGG16; {advice}")
    network = Vgg16()
    try:
        state = torch.load(Path(path), map_location="cpu", weights_only=True)
        network.load_state_dict({key: state[key] for key in network.state_dict()})
    # A damaged pickle can make the unpickler raise nearly anything.
    except Exception as err:
        raise CheckpointError(f"{path}: not weights of VGG16 ({first_line(err)}); {advice}") from err
    return network


def perceptual_contrastive_loss(derained: Tensor, rainy: Tensor, clean: Tensor, features: Features) -> Tensor:
    """Sum over layers of ``w |f(derained) - f(clean)| / |f(derained) - f(rainy)|``, mean absolute differences.

    derained, rainy, clean: (B, 3, H, W) RGB in [0, 1]. features: image to one tensor for each of LAYER_WEIGHTS.
    Returns a scalar, 0 for a perfect result.
    """
    anchors = features(derained)
    with torch.no_grad():
        negatives, positives = features(rainy), features(clean)
    ratios = [
        weight * (anchor - positive).abs().mean() / (anchor - negative).abs().mean().clamp(min=_LEAST)
        for weight, anchor, positive, negative in zip(LAYER_WEIGHTS, anchors, positives, negatives, strict=True)
    ]
    return torch.stack(ratios).sum()
