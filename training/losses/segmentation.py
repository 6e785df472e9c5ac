"""Unsupervised segmentation as a loss: a frozen network judges an image, and the gradient flows through it.

The network is a feature pyramid (Lin et al., CVPR 2017) on a ResNet. Two published terms are this loss on different
images: ``urss`` of the preprint of July 2021 (unsupervised rain streak segmentation) judges the residual, ``ubs`` of
WACV 2022 (unsupervised background segmentation) the derained image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sapnet.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import ResNetModel

Segmenter = Callable[[Tensor], Tensor]

# What ImageNet backbones expect of RGB in [0, 1].
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """``-(1 - p)^gamma log p`` of the target's class, mean over all pixels, a scalar (Lin et al., ICCV 2017).

    Pixels that are classified with confidence count little; gamma 0 is cross-entropy.
    logits: (B, C, H, W), floating point. target: int64 (B, H, W), classes 0 to C - 1. gamma: 0, or 1 and more; in
    between the gradient has a pole where p is 1.

    >>> sure, unsure = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 0.0])
    >>> [round(float(focal_loss(logits.view(1, 2, 1, 1), torch.zeros(1, 1, 1).long())), 4) for logits in (sure, unsure)]
    [0.0, 0.1733]
    """
    log_p = F.log_softmax(logits, 1).gather(1, target[:, None])
    return -((-torch.expm1(log_p)) ** gamma * log_p).mean()


def unsupervised_segmentation_loss(image: Tensor, network: Segmenter, gamma: float = 2.0) -> Tensor:
    """Focal loss of a segmentation against its own argmax: the image is to be segmented with confidence.

    image: (B, 3, H, W), [0, 1]. network: images to logits. Returns a scalar.
    """
    logits = network(image)
    return focal_loss(logits, logits.detach().argmax(1), gamma)


def residual(derained: Tensor, rainy: Tensor) -> Tensor:
    """The rain that was taken out, in [0, 1]: rain only brightens."""
    return (rainy - derained).clamp(0.0, 1.0)


class ResNetFPN(nn.Module):
    """Segments an image without supervision: a ResNet-18 with ImageNet weights, and a pyramid with a random head.

    classes: 21 as in SAPNet (WACV 2022), the number of VOC's. width: channels of the pyramid.
    pretrained: name on the Hugging Face hub, or folder, of the ResNet's weights; None for random ones. What is random
    is the same each time. Raises CheckpointError if the weights cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: str | None, classes: int = 21, width: int = 128) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPUs as well.
            torch.default_generator.manual_seed(0)
            self.backbone = _load_resnet(pretrained) if pretrained else _random_resnet()
            self.pyramid = Pyramid(self.backbone.config.hidden_sizes or (), width, classes)
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Logits at a quarter of the resolution, (B, classes, H / 4, W / 4), rounded up.

        image: (B, 3, H, W) RGB in [0, 1], any H and W.
        """
        output = self.backbone((image - self.mean) / self.std, output_hidden_states=True)
        logits: Tensor = self.pyramid(output.hidden_states[1:])  # the first is the stem's
        return logits


class Pyramid(nn.Module):
    """The top-down half: coarse levels are enlarged and added to finer ones, the finest is classified.

    channels: of the levels from fine to coarse.
    """

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """features: (B, C_i, H_i, W_i) from fine to coarse. Returns logits of the finest, (B, classes, H_0, W_0)."""
        laterals = [lateral(level) for lateral, level in zip(self.laterals, features, strict=True)]
        x = laterals.pop()
        while laterals:
            finer = laterals.pop()
            x = finer + F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.classify(torch.relu(self.smooth(x)))
        return logits


def _random_resnet() -> ResNetModel:
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(  # type: ignore[no-untyped-call]
        ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")  # ResNet-18
    )


def _load_resnet(name: str) -> ResNetModel:
    from transformers import ResNetModel

    try:
        return ResNetModel.from_pretrained(name, use_safetensors=True)
    # A network, a proxy and a hub fail in more ways than their clients promise.
    except Exception as err:
        raise CheckpointError(
            f"the ResNet weights {name} cannot be loaded ({first_line(err)}); give loss.backbone a folder that has them"
        ) from err
