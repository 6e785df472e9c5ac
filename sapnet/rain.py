"""Synthetic rain on clean frames: seeded layers of streaks or smeared noise, for training, demo and benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.images.frame import Frame

# A streak thinner than this is drawn at this width and fainter: it covers only a part of its pixels.
_THINNEST_SIGMA = 0.5
_FWHM_PER_SIGMA = 2.355
_VARIANTS = 24
_AIRLIGHT = 190
# Of smeared noise: how much farther columns reach, the size of patches over the image's height, the grid they are
# drawn on, and the margin for turning it.
_COLUMN, _PATCH, _COARSE, _TURN_MARGIN = 4.5, 0.1, 4, 0.3


@dataclass(frozen=True)
class StreakLayer:
    """Drops at about the same distance from the camera.

    count: streaks per square of the image's height; a 4:3 image shows 4/3 of it.
    length, width: mean size of a streak over the image's height; width is at half brightness.
    brightness: mean peak of a streak, 0 to 255.
    angle: degrees by which this layer's streaks cross the rain's direction.
    flat: hard-edged streaks of one brightness, no brighter where two of them cross, as if drawn with a ruler;
        otherwise they are soft across, fade towards their ends and add up.
    """

    count: float
    length: float
    width: float
    brightness: float
    angle: float = 0.0
    flat: bool = False


@dataclass(frozen=True)
class NoiseLayer:
    """Noise smeared along the rain's direction, of which the brightest part shows.

    It gives streaks that thin out, break and follow each other in columns, as image editors draw rain and as Rain100L
    shows it.

    cover: share of the image under streaks.
    length, width: standard deviations of the smear along and across, over the image's height.
    brightness: of a streak where the noise is one standard deviation above what shows, 0 to 255.
    columns: share of the noise that is smeared 4.5 times as far, 0 to 1: streaks in long rows.
    patches: how much denser the rain is in some parts of the image than in others, 0 for the same everywhere.
    ceiling: highest brightness of a streak, which then has a flat middle.
    fan: degrees by which the direction changes from one side of a square image to the other.
    """

    cover: float
    length: float
    width: float
    brightness: float
    columns: float = 0.5
    patches: float = 0.0
    ceiling: float = 255.0
    fan: float = 0.0


@dataclass(frozen=True)
class RainConfig:
    """What the rain looks like, whatever the size of the image.

    layers: from far to near.
    directions: range in degrees from the vertical, positive falls to the right; one is drawn per seed.
    spread: standard deviation in degrees of single streaks around the direction.
    blend: ``add`` (light on light, clipped at white) or ``screen`` (fainter where the scene is bright).
    mist: share of the scene's light, 0 to 1, that gray airlight replaces before streaks fall on it.
    """

    layers: tuple[StreakLayer | NoiseLayer, ...]
    directions: tuple[float, float] = (-25.0, 25.0)
    spread: float = 1.0
    blend: str = "add"
    mist: float = 0.0


RAIN_PRESETS: Mapping[str, RainConfig] = {
    # Few, thin and distinct, as in Rain100L.
    "light": RainConfig(
        layers=(
            StreakLayer(count=200, length=0.07, width=0.0036, brightness=40),
            StreakLayer(count=110, length=0.13, width=0.0044, brightness=56),
            StreakLayer(count=12, length=0.18, width=0.0060, brightness=90),
        ),
    ),
    # A shower: more of the same, and a thin veil.
    "medium": RainConfig(
        layers=(
            StreakLayer(count=600, length=0.08, width=0.0040, brightness=36),
            StreakLayer(count=300, length=0.15, width=0.0048, brightness=60),
            StreakLayer(count=40, length=0.22, width=0.0065, brightness=100),
        ),
        spread=1.5,
    ),
    # Dense, with a veil of far drops, as in Rain100H.
    "heavy": RainConfig(
        layers=(
            StreakLayer(count=1300, length=0.10, width=0.0040, brightness=32),
            StreakLayer(count=480, length=0.17, width=0.0048, brightness=54),
            StreakLayer(count=45, length=0.24, width=0.0065, brightness=90),
        ),
        directions=(-20.0, 20.0),
        spread=2.0,
    ),
}


class RainSynthesizer:
    """Rain for frames of one size: streaks change with every frame, their direction stays.

    rain: a name of ``RAIN_PRESETS`` or a RainConfig.
    image_height: height of the image that streaks are sized by, where frames are only a part of it; else ``height``.
    Equal (rain, sizes, seed, index) give equal rain.
    """

    def __init__(
        self, rain: str | RainConfig, height: int, width: int, seed: int = 0, image_height: float | None = None
    ) -> None:
        self.config = RAIN_PRESETS[rain] if isinstance(rain, str) else rain
        self.height, self.width, self.seed = height, width, seed
        self.image_height = image_height or height
        rng = np.random.default_rng(seed)
        self.direction = float(rng.uniform(*self.config.directions))
        self._sprites = [
            [] if isinstance(layer, NoiseLayer) else self._render_layer(layer, rng) for layer in self.config.layers
        ]

    def add(self, clean: Frame, index: int) -> tuple[Frame, Frame]:
        """Rain on frame ``index`` of a sequence.

        clean: uint8 (H, W, 3), any channel order. Returns the rainy frame, nowhere darker than ``clean`` unless
        there is mist, and the strength of the streaks before blending, uint8 (H, W).
        """
        if clean.dtype != np.uint8 or clean.shape != (self.height, self.width, 3):
            raise ValueError(
                f"expected uint8 ({self.height}, {self.width}, 3), got {clean.dtype} {clean.shape}: "
                "one RainSynthesizer serves one frame size"
            )
        strength = self.strength(index)
        misty, veil = self.add_mist(clean), cast(Frame, cv2.merge([strength, strength, strength]))
        if self.config.blend == "add":
            return cast(Frame, cv2.add(misty, veil)), strength
        dark = cv2.multiply(cv2.bitwise_not(misty), cv2.bitwise_not(veil), scale=1 / 255)
        return cast(Frame, cv2.bitwise_not(dark)), strength

    def strength(self, index: int) -> Frame:
        """The streaks of frame ``index`` alone, uint8 (H, W)."""
        rng = np.random.default_rng([self.seed, index])
        strength = np.zeros((self.height, self.width), np.uint8)
        for layer, sprites in zip(self.config.layers, self._sprites, strict=True):
            drawn = self._smear(layer, rng) if isinstance(layer, NoiseLayer) else self._scatter(layer, sprites, rng)
            cv2.add(strength, drawn, dst=strength)
        return strength

    def add_mist(self, clean: Frame) -> Frame:
        """The frame that streaks fall on: ``clean`` in the mist, uint8 (H, W, 3)."""
        if not self.config.mist:
            return clean
        share = self.config.mist
        return cast(Frame, cv2.convertScaleAbs(clean, alpha=1 - share, beta=share * _AIRLIGHT))

    def _scatter(self, layer: StreakLayer, sprites: list[Frame], rng: np.random.Generator) -> Frame:
        """A layer's streaks at random places, also partly outside the frame, uint8 (H, W)."""
        margin = max(max(sprite.shape) for sprite in sprites)
        rows, columns = self.height + margin, self.width + margin
        canvas = np.zeros((rows + margin, columns + margin), np.uint8)
        count = rng.poisson(layer.count * rows * columns / self.image_height**2)
        tops, lefts = rng.integers(rows, size=count), rng.integers(columns, size=count)
        kinds = rng.integers(len(sprites), size=count)
        for top, left, kind in zip(tops.tolist(), lefts.tolist(), kinds.tolist(), strict=True):
            sprite = sprites[kind]
            under = canvas[top : top + sprite.shape[0], left : left + sprite.shape[1]]
            (cv2.max if layer.flat else cv2.add)(under, sprite, dst=under)
        return canvas[margin:rows, margin:columns]

    def _smear(self, layer: NoiseLayer, rng: np.random.Generator) -> Frame:
        """A layer of noise, smeared downwards, then turned into the rain's direction, uint8 (H, W)."""
        height, width = self.height, self.width
        # Enough for the corners of an image that is turned by 30 degrees; the border's mirror fills in beyond.
        margin = int(_TURN_MARGIN * max(height, width))
        rows, columns = height + 2 * margin, width + 2 * margin
        across, along = max(layer.width * self.image_height, _THINNEST_SIGMA), layer.length * self.image_height

        def noise(across: float, along: float, step: int = 1) -> NDArray[np.float32]:
            drawn = rng.standard_normal((rows // step + 1, columns // step + 1), dtype=np.float32)
            smeared = cv2.GaussianBlur(drawn, (0, 0), across / step, sigmaY=along / step)
            return np.asarray(cv2.resize(smeared, (columns, rows)) / smeared.std(), np.float32)

        field = (1 - layer.columns) * noise(across, along)
        field += layer.columns * noise(1.2 * across, _COLUMN * along)
        field /= field.std()
        if layer.patches:
            broad = _PATCH * self.image_height
            field += layer.patches * noise(broad, broad, _COARSE)
        shown = np.maximum(field - np.quantile(field[::3, ::3], 1 - layer.cover), 0)
        light = np.minimum(shown * layer.brightness, layer.ceiling)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        x, y = x - np.float32(width / 2), y - np.float32(height / 2)
        angle = np.radians(np.float32(self.direction) + np.float32(layer.fan / self.image_height) * x)
        sine, cosine = np.sin(angle), np.cos(angle)
        turned_x = x * cosine - y * sine + np.float32(columns / 2)
        turned_y = x * sine + y * cosine + np.float32(rows / 2)
        turned = cv2.remap(light, turned_x, turned_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(np.rint(turned), np.uint8)

    def _render_layer(self, layer: StreakLayer, rng: np.random.Generator) -> list[Frame]:
        """Streaks of a layer that differ in length, width, brightness, direction and place within the pixel."""
        lengths = layer.length * self.image_height * rng.lognormal(-0.06, 0.35, _VARIANTS)
        widths = layer.width * self.image_height * rng.uniform(0.7, 1.3, _VARIANTS)
        peaks = layer.brightness * (np.ones(_VARIANTS) if layer.flat else rng.uniform(0.4, 1.6, _VARIANTS))
        angles = np.radians(rng.normal(self.direction + layer.angle, self.config.spread, _VARIANTS))
        phases = rng.uniform(-0.5, 0.5, (2, _VARIANTS))
        render = _render_flat if layer.flat else _render_soft
        return [render(*streak) for streak in zip(lengths, widths, peaks, angles, *phases, strict=True)]


def _render_soft(length: float, width: float, peak: float, angle: float, dx: float, dy: float) -> Frame:
    """One streak: Gaussian across, fading towards both ends along its way; uint8, as small as holds it."""
    sigma = width / _FWHM_PER_SIGMA
    peak *= min(1.0, sigma / _THINNEST_SIGMA)
    sigma = max(sigma, _THINNEST_SIGMA)
    half = length / 2 + 3 * sigma
    along, across = _streak_axes(half, 3 * sigma, angle, dx, dy)
    # The cosine's arch to a power below 1 stays bright for most of the way.
    way = np.minimum(np.abs(along / np.float32(half)), 1)
    fade = np.maximum(np.cos(way * np.float32(np.pi / 2)), 0) ** np.float32(0.7)
    light = fade * np.exp((across / np.float32(sigma)) ** 2 * np.float32(-0.5)) * np.float32(peak)
    return np.asarray(np.rint(np.minimum(light, 255)), np.uint8)


def _render_flat(length: float, width: float, peak: float, angle: float, dx: float, dy: float) -> Frame:
    """One flat streak: all of its pixels have the peak's brightness."""
    half_width = max(width, 1.0) / 2
    along, across = _streak_axes(length / 2, half_width, angle, dx, dy)
    inside = (np.abs(along) <= length / 2) & (np.abs(across) <= half_width)
    return inside * np.uint8(np.clip(round(peak), 0, 255))


def _streak_axes(
    half_length: float, half_width: float, angle: float, dx: float, dy: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances in pixels along and across a streak, on a grid that holds it; ``dx``, ``dy`` is its middle."""
    rows = int(np.ceil(abs(np.cos(angle)) * half_length + abs(np.sin(angle)) * half_width)) + 1
    columns = int(np.ceil(abs(np.sin(angle)) * half_length + abs(np.cos(angle)) * half_width)) + 1
    y = np.arange(-rows, rows + 1, dtype=np.float32)[:, None] - np.float32(dy)
    x = np.arange(-columns, columns + 1, dtype=np.float32)[None, :] - np.float32(dx)
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    return x * sine + y * cosine, x * cosine - y * sine
