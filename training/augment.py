"""What varies besides synthetic rain: mirrored scenes, exposure, sensor noise, tone, sharpness, JPEG, lent streaks.

Images are uint8 (h, w, 3) BGR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.images.frame import Frame
from training.config import Augmentation

# How a layer of streaks is varied: half of the samples keep its scale and direction, all have their own strength.
_WARPED = 0.5
_SCALE = (0.85, 1.4)
_SHEAR = 0.2
_STRENGTH = (0.7, 1.3)
# What a camera makes of what it saw: contrast of the middle tones, 1 above or below; share of an unsharp mask, below 0
# of a blur, and its sigma in pixels.
_CONTRAST = 0.7
_SHARPNESS = (-0.4, 1.2)
_SHARPNESS_SIGMA = (0.6, 1.6)
# Every value of a pixel, in [0, 1].
_LEVELS = np.arange(256) / 255


def augment_scene(images: Sequence[Frame], augmentation: Augmentation, rng: np.random.Generator) -> list[Frame]:
    """Images of one scene and size as they might have been, all changed alike, so that pairs stay pairs.

    Noise is of the scene, for the rainy image to keep and not to be cleaned of.
    """
    flips = tuple(slice(None, None, -1 if rng.random() < augmentation.mirror else 1) for _ in range(2))
    changed = [np.ascontiguousarray(image[flips]) for image in images]
    if rng.random() < augmentation.gamma:
        exponent = np.exp(rng.uniform(-1, 1) * np.log(1.4))
        changed = _apply_curve(changed, _LEVELS**exponent)
    if rng.random() < augmentation.noise:
        noise = rng.normal(0, rng.uniform(0, augmentation.noise_sigma), changed[0].shape)
        changed = [np.clip(np.rint(image + noise), 0, 255).astype(np.uint8) for image in changed]
    return changed


def draw_window(image: NDArray[np.generic], height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a part of an image, anywhere in it; the image must not be smaller."""
    top, left = (int(rng.integers(whole - side + 1)) for whole, side in zip(image.shape, (height, width), strict=False))
    return slice(top, top + height), slice(left, left + width)


def develop(images: Sequence[Frame], augmentation: Augmentation, rng: np.random.Generator) -> list[Frame]:
    """Images of one scene as a camera renders them: a tone curve, then sharpening or softening, of all alike.

    Rain that fell before the camera has both, unlike rain that is added to a finished photograph.
    """
    if rng.random() >= augmentation.develop:
        return list(images)
    contrast = rng.uniform(-_CONTRAST, _CONTRAST)
    curve = _LEVELS - contrast * np.sin(2 * np.pi * _LEVELS) / (2 * np.pi)  # rises everywhere, as |contrast| < 1
    sharpness, sigma = rng.uniform(*_SHARPNESS), rng.uniform(*_SHARPNESS_SIGMA)
    return [
        cast(Frame, cv2.addWeighted(image, 1 + sharpness, cv2.GaussianBlur(image, (0, 0), sigma), -sharpness, 0))
        for image in _apply_curve(images, curve)
    ]


def _apply_curve(images: Sequence[Frame], curve: NDArray[np.float64]) -> list[Frame]:
    """``curve``: what each of ``_LEVELS`` becomes, in [0, 1]."""
    table = np.rint(255 * curve).astype(np.uint8)
    return [cast(Frame, cv2.LUT(image, table)) for image in images]


def compress(rainy: Frame, augmentation: Augmentation, rng: np.random.Generator) -> Frame:
    """What a JPEG transport may leave of it."""
    if rng.random() >= augmentation.jpeg:
        return rainy
    _, data = cv2.imencode(".jpg", rainy, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 96))])
    return cast(Frame, cv2.imdecode(data, cv2.IMREAD_COLOR))


def streak_layer(rainy: Frame, clean: Frame) -> Frame:
    """uint8 (H, W): what streaks of one grey level added to all channels, as in RainTrainL and H.

    Sums were clipped at 255: the channel that gained most has lost least to it. Where all were clipped, as in front of
    a white sky, the streaks are those of the layer turned by 180 degrees, which leaves their direction.
    """
    added = (rainy.astype(np.int16) - clean).max(axis=2)
    layer: Frame = added.clip(0, 255).astype(np.uint8)
    is_clipped = (rainy == 255).all(axis=2)
    return np.where(is_clipped, np.maximum(layer, layer[::-1, ::-1]), layer)


def lay_streaks(layer: Frame, clean: Frame, rng: np.random.Generator) -> Frame:
    """``clean``, uint8 (h, w, 3) BGR, under a part of a layer: mirrored, scaled, sheared, weaker or stronger.

    The layer must not be smaller than the image.
    """
    height, width = clean.shape[:2]
    layer = layer[:, :: -1 if rng.random() < 0.5 else 1]
    if rng.random() < _WARPED:
        scale, shear = rng.uniform(*_SCALE), rng.uniform(-_SHEAR, _SHEAR)
        matrix = np.array([[scale, shear, -shear * layer.shape[0] / 2], [0, scale, 0]])
        layer = np.asarray(
            cv2.warpAffine(layer, matrix, layer.shape[::-1], borderMode=cv2.BORDER_REFLECT_101), np.uint8
        )
    part = layer[draw_window(layer, height, width, rng)] * rng.uniform(*_STRENGTH)
    return np.clip(np.rint(clean + part[..., None]), 0, 255).astype(np.uint8)
