"""Unsupervised segmentation as a loss: a frozen network judges an image, and the gradient flows through it.

The network is a feature pyramid (Lin et al., CVPR 2017) on a ResNet. Two published terms are this loss on different
images: ``urss`` of the preprint of July 2021 (unsupervised rain streak segmentation) judges the residual, ``ubs`` of
WACV 2022 (unsupervised background segmentation) the derained image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.enhance import normalize
from torch import Tensor, nn

from sapnet.errors import CheckpointError, first_line

# As in SAPNet (WACV 2022), the number of VOC's; channels of the pyramid.
_CLASSES, _WIDTH = 21, 128


def normalize_imagenet(image: Tensor) -> Tensor:
    """What networks with ImageNet weights expect, of RGB in [0, 1], (B, 3, H, W)."""
    return normalize(image, torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225)))


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """``-(1 - p)^gamma log p`` of the target's class, mean over all pixels, a scalar (Lin et al., ICCV 2017).

    Pixels that are classified with confidence count little; gamma 0 is cross-entropy.
    logits: (B, C, H, W), floating point. target: int64 (B, H, W), classes 0 to C - 1. gamma: 0, or 1 and more; in
    between the gradient has a pole where p is 1.
    """
    log_p = F.log_softmax(logits, 1).gather(1, target[:, None])
    return -((-torch.expm1(log_p)) ** gamma * log_p).mean()


def unsupervised_segmentation_loss(image: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
    """Focal loss of a segmentation against its own argmax: the image is to be segmented with confidence.

    image: (B, 3, H, W), [0, 1]. network: images to logits. Returns a scalar.
    """
    logits = network(image)
    return focal_loss(logits, logits.detach().argmax(1))


class ResNetFPN(nn.Module):
    """Segments an image without supervision: a ResNet with ImageNet weights, and a pyramid with a random head.

    Coarse levels of the ResNet are enlarged and added to finer ones, and the finest is classified. What is random is
    the same each time.
    pretrained: name on the Hugging Face hub, or folder, of the ResNet's weights. Raises CheckpointError if they cannot
    be loaded.
    """

    def __init__(self, pretrained: str) -> None:
        super().__init__()
        from transformers import ResNetModel

        try:
            self.backbone = ResNetModel.from_pretrained(pretrained, use_safetensors=True)
        # A network, a proxy and a hub fail in more ways than their clients promise.
        except Exception as err:
            raise CheckpointError(
                f"the ResNet weights {pretrained} cannot be loaded ({first_line(err)}); "
                "give loss.backbone a folder that has them"
            ) from err
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPUs as well.
            torch.default_generator.manual_seed(0)
            channels = self.backbone.config.hidden_sizes or ()
            self.laterals = nn.ModuleList(nn.Conv2d(count, _WIDTH, 1) for count in channels)
            self.smooth = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
            self.classify = nn.Conv2d(_WIDTH, _CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits at a quarter of the resolution, (B, 21, H / 4, W / 4), rounded up.

        image: (B, 3, H, W) RGB in [0, 1], any H and W.
        """
        levels = self.backbone(normalize_imagenet(image), output_hidden_states=True).hidden_states[1:]  # without stem
        fine_to_coarse = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        x = fine_to_coarse.pop()
        while fine_to_coarse:
            finer = fine_to_coarse.pop()
            x = finer + F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.classify(torch.relu(self.smooth(x)))
        return logits
