"""The parameter table, without a node."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sapnet_ros.params import BY_NAME, PARAMETERS, NodeParams, ParameterError

DEFAULTS = {declaration.name: declaration.default for declaration in PARAMETERS}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("jpeg_quality", 0, "1 to 100"),
        ("jpeg_quality", 90.5, "whole number"),
        ("mask_threshold", "12", "0 to 255"),
        ("hang_timeout_s", float("nan"), "a number from"),
        ("backend", "tensorflow", "auto, tensorrt, torch, openvino, fake"),
        ("enabled", 1, "true or false"),
        ("weights", "", "a preset or a path"),
        ("warmup_sizes", ["8x720"], "16x16"),
        ("cameras", ["front", "front"], "unique"),
        ("cameras", ["a__b"], "single underscores"),
        ("cameras", ["process"], "not backend or process"),
        ("cameras", "front", "empty, or unique names"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ParameterError, match=rf"{re.escape(repr(name))}.*{re.escape(allowed)}"):
        NodeParams.check(DEFAULTS | {name: value})


def test_the_gates_thresholds_are_checked_together() -> None:
    with pytest.raises(ParameterError, match="set both at once"):
        NodeParams.check(DEFAULTS | {"rain_gate.off_threshold": 0.5, "rain_gate.on_threshold": 0.4})
    NodeParams.check(DEFAULTS | {"rain_gate.off_threshold": 0.4, "rain_gate.on_threshold": 0.4})


def test_warmup_sizes_are_checked_against_the_largest_frame() -> None:
    sizes = {"warmup_sizes": ["32x32", "48x64"]}
    assert NodeParams.check(DEFAULTS | sizes | {"max_pixels": 48 * 64}).warmup_sizes[1] == (48, 64)
    with pytest.raises(ParameterError, match=r"'warmup_sizes' .* 'max_pixels' each, got 48x64 and 3071"):
        NodeParams.check(DEFAULTS | sizes | {"max_pixels": 48 * 64 - 1})


def test_every_parameter_describes_itself() -> None:
    for declaration in PARAMETERS:
        descriptor = declaration.descriptor()
        assert descriptor.description.endswith(f"Changes: {declaration.changes}.")
        assert descriptor.dynamic_typing
        assert declaration.changes in ("live", "configure", "read-only")
    assert BY_NAME["jpeg_quality"].descriptor().integer_range[0].to_value == 100
    assert BY_NAME["hang_timeout_s"].descriptor().floating_point_range[0].from_value == 0.1
    assert BY_NAME["autostart"].descriptor().read_only
