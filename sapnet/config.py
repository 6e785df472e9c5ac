"""The numbers of every network variant, in one validated place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

MAX_STAGES = 12
# Far beyond any sensible network; refuses numbers that torch itself fails on.
_LARGEST = 4096


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a SAPNet.

    channels: feature channels of the ConvLSTM and of the residual blocks.
    dilations: dilation of both 3x3 convolutions of each residual block, one entry per block.
    separable: depthwise 3x3 followed by pointwise convolutions instead of dense 3x3.
    downscale: the network works on ``pixel_unshuffle(rainy, downscale)``; 1 is full resolution.
    stages: recurrences, all with the same weights.
    reduction: channels over squeezed channels in the attention.
    coarse: a second network, whose result the first stage begins with and every estimate is blended with; or None.
    """

    channels: int = 32
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    separable: bool = False
    downscale: int = 1
    stages: int = 6
    reduction: int = 16
    coarse: ModelConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(self.dilations))
        if isinstance(self.coarse, Mapping):  # from JSON
            object.__setattr__(self, "coarse", ModelConfig(**self.coarse))
        for name in ("channels", "downscale", "stages", "reduction"):
            _check_whole(name, getattr(self, name))
        for dilation in self.dilations:
            _check_whole("dilations", dilation)
        if not isinstance(self.separable, bool):
            raise ValueError(f"separable must be true or false, got {self.separable!r}")
        if not isinstance(self.coarse, ModelConfig | None):
            raise ValueError(f"coarse must be a ModelConfig or none, got {self.coarse!r}")
        if not self.dilations:
            raise ValueError("dilations must name at least one residual block")
        if self.channels % self.reduction:
            raise ValueError(f"channels ({self.channels}) must be a multiple of reduction ({self.reduction})")
        if self.stages > MAX_STAGES:
            raise ValueError(f"stages must be 1 to {MAX_STAGES}, got {self.stages}")

    def with_stages(self, stages: int) -> ModelConfig:
        """The same network run for ``stages`` recurrences; 0 keeps the preset's own. ``coarse`` runs all of its own."""
        return self if stages == 0 else replace(self, stages=stages)


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise ValueError(f"{name} must be a whole number from 1 to {_LARGEST}, got {value!r}")


# The vehicle's default: half resolution inside, four stages.
_SAPNET_FAST = ModelConfig(downscale=2, stages=4)
PRESETS: Mapping[str, ModelConfig] = {
    # The published network beside the fast one, at the arithmetic of six stages of the published one alone.
    "sapnet": ModelConfig(stages=5, coarse=_SAPNET_FAST),
    # WACV 2022: the published network with dilated dense convolutions.
    "sapnet_wacv2022": ModelConfig(),
    # The first published code: depthwise separable, no dilation.
    "sapnet_separable": ModelConfig(dilations=(1, 1, 1, 1, 1), separable=True),
    "sapnet_fast": _SAPNET_FAST,
}
