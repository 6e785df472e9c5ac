"""What rain training shows: each kind is a range of RainConfigs, drawn anew for every sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from sapnet.rain import NoiseLayer, RainConfig, StreakLayer

Rng = np.random.Generator
Layer = StreakLayer | NoiseLayer

DRY = "dry"
# Share of each kind in mixed rain. Dry samples teach that there may be nothing to do.
MIXED: Mapping[str, float] = {DRY: 0.04, "light": 0.42, "medium": 0.08, "heavy": 0.46}
# The largest kinds also cross it with streaks from other sides.
_CROSSING_DEGREES = 6.0
# Share of light rain that is smeared noise.
_NOISE = 0.75
# Share of the samples whose rain is varied beyond its kind, and how: factors of all widths and, as a logarithm's
# standard deviation, of all brightnesses; share that loses contrast on bright scenes, as real rain does.
_VARIED = 0.5
_WIDTHS = (0.6, 1.5)
_BRIGHTNESS = 0.35
_SCREENED = 0.6
# Streaks are sized as in a photograph of this height in pixels, times a factor: most benchmarks are such photographs.
# A share of the crops stands for a part of a 720p frame instead, whose streaks have more pixels.
_PHOTOGRAPH_HEIGHT = 321
_SCALES = (0.6, 1.3)
_LARGE, _LARGE_SCALES = 0.25, (1.2, 2.4)


def draw_rain(kind: str, rng: Rng) -> RainConfig | None:
    """A rain of this kind, None for a dry sample.

    kind: ``light``, ``medium``, ``heavy``, ``dry``, or ``mixed``, which draws one of them by the shares of ``MIXED``.
    """
    if kind == "mixed":
        kind = str(rng.choice(list(MIXED), p=list(MIXED.values())))
    if kind == DRY:
        return None
    return RainConfig(
        layers=_KINDS[kind](rng),
        directions=(-29.0, 29.0) if kind == "light" else (-18.0, 18.0),
        spread=float(rng.uniform(0.2, 2.5)),
        blend="screen" if rng.random() < 0.1 else "add",
        mist=float(rng.uniform(0.0, 0.15)) if rng.random() < 0.08 else 0.0,
    )


def draw_varied_rain(kind: str, rng: Rng) -> RainConfig | None:
    """A rain of this kind (``draw_rain``) for training, in half of the samples varied."""
    rain = draw_rain(kind, rng)
    return vary_rain(rain, rng) if rain and rng.random() < _VARIED else rain


def vary_rain(rain: RainConfig, rng: Rng) -> RainConfig:
    """The same rain finer or coarser, fainter or brighter, and often screened: real rain is of no kind above."""
    width, brightness = rng.uniform(*_WIDTHS), rng.lognormal(0.0, _BRIGHTNESS)
    layers = tuple(
        replace(layer, width=layer.width * width, brightness=layer.brightness * brightness) for layer in rain.layers
    )
    return replace(rain, layers=layers, blend="screen" if rng.random() < _SCREENED else rain.blend)


def draw_image_height(rng: Rng) -> float:
    """Height in pixels of the image that the streaks of a sample are sized for."""
    return _PHOTOGRAPH_HEIGHT * (rng.uniform(*_LARGE_SCALES) if rng.random() < _LARGE else rng.uniform(*_SCALES))


def _light(rng: Rng) -> tuple[Layer, ...]:
    """Smeared noise as in Rain100L, or sometimes one to three layers of few to many soft streaks."""
    if rng.random() < _NOISE:
        return _noise(rng)
    dense = float(rng.lognormal(-0.2, 0.6))
    bright = float(rng.lognormal(-0.08, 0.35))
    return tuple(
        StreakLayer(
            count=dense * count * rng.lognormal(0.0, 0.4),
            length=length * rng.lognormal(0.0, 0.35),
            width=width * rng.uniform(0.5, 1.1),
            brightness=bright * brightness * rng.lognormal(0.0, 0.25),
        )
        for count, length, width, brightness in (
            (220, 0.08, 0.0052, 50),
            (90, 0.14, 0.0069, 78),
            (14, 0.18, 0.0092, 138),
        )[: rng.integers(1, 4)]
    )


def _noise(rng: Rng) -> tuple[NoiseLayer, ...]:
    """One to three layers, the first of them the densest, the last one the nearest."""
    cover, bright = np.exp(rng.uniform(np.log(0.12), np.log(0.36))), 42 * rng.lognormal(0.0, 0.4)
    length, width, fan = 0.034 * rng.lognormal(0.0, 0.4), rng.uniform(0.0016, 0.0033), float(rng.normal(0.0, 7.0))
    layers = []
    for near in range(rng.integers(1, 4)):
        peak = bright * (1 + 0.6 * near)
        layers.append(
            NoiseLayer(
                cover=cover * (rng.uniform(0.1, 0.6) if near else 1.0),
                length=length * rng.lognormal(0.0, 0.25) * (1 + 0.5 * near),
                width=width * rng.uniform(0.8, 1.4) * (1 + 0.35 * near),
                brightness=peak,
                columns=rng.uniform(0.25, 0.8),
                patches=rng.uniform(0.0, 0.5) if rng.random() < 0.7 else 0.0,
                ceiling=peak * rng.uniform(0.7, 1.6) if rng.random() < 0.25 else 255.0,
                fan=fan,
            )
        )
    return tuple(layers)


def _medium(rng: Rng) -> tuple[Layer, ...]:
    """A light rain over a sparse one of the heavy kind."""
    return (*_heavy(rng, dense=0.3)[:2], *_light(rng))


def _heavy(rng: Rng, dense: float = 1.0) -> tuple[StreakLayer, ...]:
    """Soft streaks that cross over one or two layers of flat ones, as in Rain100H; sometimes one sort alone."""
    sort = rng.random()
    flat = [_crossing(rng, dense, True) for _ in range(rng.integers(1, 3))] if sort < 0.85 else []
    soft = [_crossing(rng, dense, False) for _ in range(rng.integers(1, 4))] if sort > 0.12 else []
    return (*flat, *soft)


def _crossing(rng: Rng, dense: float, flat: bool) -> StreakLayer:
    """Flat streaks cover 20 to 70 percent of the image where ``dense`` is 1."""
    length, width = rng.uniform(0.06, 0.35 if flat else 0.30), rng.uniform(*(0.0026, 0.007) if flat else (0.003, 0.008))
    amount = dense * rng.uniform(0.2 if flat else 0.15, 0.7)
    return StreakLayer(
        count=(-np.log1p(-amount) if flat else amount) / (length * width),
        length=length,
        width=width,
        brightness=rng.uniform(*(18, 85) if flat else (20, 95)),
        angle=float(rng.normal(0.0, _CROSSING_DEGREES if rng.random() < 0.4 else 1.5)),
        flat=flat,
    )


_KINDS: Mapping[str, Callable[[Rng], tuple[Layer, ...]]] = {"light": _light, "medium": _medium, "heavy": _heavy}
RAIN_KINDS = ("mixed", DRY, *_KINDS)
