"""Engines on a real GPU: built, proven, found again, and as exact as they claim."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from sapnet import Derainer
from sapnet.backends import BackendSpec, create_backend
from sapnet.backends.engine import EngineShape
from sapnet.backends.engine_cache import EngineCache
from sapnet.backends.tensorrt_proof import REQUIRED_DB, rainy_frame

HAS_TENSORRT = find_spec("tensorrt_rtx") is not None or find_spec("torch_tensorrt") is not None

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch"),
]
tensorrt = pytest.mark.skipif(not HAS_TENSORRT, reason="needs tensorrt_rtx or torch-tensorrt")

FRAME = rainy_frame(EngineShape(120, 160))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255.0**2 / error)) if error else 99.0


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    with Derainer(backend="torch", device="cpu", precision="fp32") as derainer:
        return derainer([FRAME])[0].image


@tensorrt
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_an_engine_agrees_with_float32_and_is_found_again(precision: str, exact: np.ndarray, tmp_path: Path) -> None:
    with Derainer(backend="tensorrt", precision=precision, max_batch=2, cache_dir=str(tmp_path)) as derainer:
        first, second = derainer([FRAME, FRAME])
    assert psnr(first.image, exact) >= REQUIRED_DB[precision]
    assert np.array_equal(first.image, second.image)
    engines = [entry for entry in EngineCache(tmp_path).entries() if entry.key["kind"] == "engine"]
    assert engines[0].about["agreement_db"] >= REQUIRED_DB[precision]
    told: list[object] = []
    spec = {"precision": precision, "max_batch": 2, "cache_dir": str(tmp_path), "on_build": told.append}
    with Derainer(backend="tensorrt", **spec) as derainer:
        assert np.array_equal(derainer([FRAME])[0].image, first.image)
    assert not told


@tensorrt
def test_auto_derains_at_once_and_changes_over(tmp_path: Path) -> None:
    with Derainer(cache_dir=str(tmp_path)) as derainer:
        derainer.prepare(120, 160)
        derainer([FRAME])
        assert derainer.backend_name in ("torch", "tensorrt")
    backend = create_backend("tensorrt", BackendSpec(cache_dir=str(tmp_path)))
    backend.prepare(1, 120, 160)
    assert backend.is_ready(1, 120, 160)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_cuda_graphs_agree_with_float32(precision: str, exact: np.ndarray) -> None:
    with Derainer(backend="torch", device="cuda", precision=precision, max_batch=4) as derainer:
        for count in (1, 4, 2, 1):
            for derained in derainer([FRAME] * count):
                assert psnr(derained.image, exact) >= 50


def test_memory_of_the_gpu_stays_flat() -> None:
    with Derainer(backend="torch", device="cuda", max_batch=2) as derainer:
        for _ in range(5):
            derainer([FRAME, FRAME])
        before = torch.cuda.mem_get_info()[0]
        for _ in range(200):
            derainer([FRAME])
            derainer([FRAME, FRAME])
        assert torch.cuda.mem_get_info()[0] == before
