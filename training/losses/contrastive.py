"""Perceptual contrastive loss ``pcl`` of WACV 2022: near the clean image, far from the rainy one, in VGG16 features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sapnet.errors import CheckpointError, first_line
from training.losses.segmentation import normalize_imagenet

# Output channels of VGG16's convolutions (Simonyan and Zisserman, ICLR 2015) as far as they are used; 0: max pooling.
_CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512)
# The first ReLU of each block.
_TAPS = (1, 6, 11, 18, 25)
# Early features differ most between images; as in AECR-Net (Wu et al., CVPR 2021).
LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
# Where neither image differs from the derained one.
_LEAST = 1e-7


class Vgg16(nn.Module):
    """The features of VGG16 after the first ReLU of each block, with torchvision's names of parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in _CHANNELS:
            if outputs:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W) RGB in [0, 1], sides of at least 16. Returns five tensors (B, C, H / 2^i, W / 2^i)."""
        x, tapped = normalize_imagenet(image), []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _TAPS:
                tapped.append(x)
        return tapped


def load_vgg16(path: str) -> Vgg16:
    """VGG16 with the ImageNet weights in a file of torchvision's.

    Raises CheckpointError that says which file is expected.
    """
    network = Vgg16()
    try:
        state = torch.load(Path(path), map_location="cpu", weights_only=True)
        network.load_state_dict({key: state[key] for key in network.state_dict()})
    # A damaged pickle can make the unpickler raise nearly anything.
    except Exception as err:
        raise CheckpointError(
            f"loss.vgg: {path!r} holds no weights of VGG16 ({first_line(err)}); "
            "give the path of torchvision's, vgg16-397923af.pth"
        ) from err
    return network


def perceptual_contrastive_loss(
    derained: Tensor, rainy: Tensor, clean: Tensor, features: Callable[[Tensor], Sequence[Tensor]]
) -> Tensor:
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
