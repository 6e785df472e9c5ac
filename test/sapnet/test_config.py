"""ModelConfig: what is accepted, what is refused and how it says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sapnet.config import MAX_STAGES, PRESETS, ModelConfig


def test_presets_are_those_of_the_design():
    published = ModelConfig(dilations=(1, 2, 4, 8, 16), separable=False, downscale=1, stages=6)
    assert PRESETS["sapnet_wacv2022"] == published
    assert PRESETS["sapnet"] == replace(published, stages=5, coarse=PRESETS["sapnet_fast"])
    assert PRESETS["sapnet_separable"] == ModelConfig(dilations=(1,) * 5, separable=True, downscale=1, stages=6)
    assert PRESETS["sapnet_fast"] == ModelConfig(dilations=(1, 2, 4, 8, 16), separable=False, downscale=2, stages=4)
    assert len(PRESETS) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 0}, "channels must be a whole number from 1 to 4096, got 0"),
        ({"channels": 32.0}, r"channels .* got 32\.0"),
        ({"channels": 16 * 10**20}, "channels must be a whole number from 1 to 4096"),
        ({"channels": 24}, r"channels \(24\) must be a multiple of reduction \(16\)"),
        ({"downscale": -1}, "downscale .* got -1"),
        ({"stages": True}, "stages .* got True"),
        ({"stages": "6"}, "stages .* got '6'"),
        ({"stages": MAX_STAGES + 1}, f"stages must be 1 to {MAX_STAGES}, got {MAX_STAGES + 1}"),
        ({"reduction": 0}, "reduction .* got 0"),
        ({"dilations": ()}, "at least one residual block"),
        ({"dilations": (1, 0)}, "dilations .* got 0"),
        ({"separable": 1}, "separable must be true or false, got 1"),
        ({"coarse": "sapnet_fast"}, "coarse must be a ModelConfig or none, got 'sapnet_fast'"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**values)


def test_stages_can_be_overridden_and_zero_keeps_them():
    config = PRESETS["sapnet_fast"]
    assert config.with_stages(0) is config
    assert config.with_stages(2).stages == 2
    assert config.with_stages(2).downscale == config.downscale
    with pytest.raises(ValueError, match="stages"):
        config.with_stages(-1)
