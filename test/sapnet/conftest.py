"""Small networks and frames for the tests of ``sapnet``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

Frame = NDArray[np.uint8]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network of the vehicle's kind (half resolution inside), random and small enough to compile fast."""
    from state_dicts import small

    from sapnet.model.weights import save_weights

    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_weights(small(stages=2), path, {"made": "by a test"})
    return path


@pytest.fixture(scope="session")
def make_frame() -> Callable[..., Frame]:
    """``make_frame(height, width, seed=0)``: a frame of noise, uint8 (H, W, 3)."""

    def make(height: int, width: int, seed: int = 0) -> Frame:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

    return make
