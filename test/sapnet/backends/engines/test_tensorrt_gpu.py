"""Engines on a real GPU: built, proven, found again, and as exact as they claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("filelock", reason="the engine cache needs filelock")

from sapnet import Derainer
from sapnet.backends.base import EngineShape
from sapnet.backends.engines.cache import EngineCache
from sapnet.backends.engines.tensorrt import REQUIRED_DB, rainy_frame
from sapnet.errors import BackendError
from sapnet.images.frame import psnr

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch"),
]

SHAPE = EngineShape(120, 160)
FRAME = rainy_frame(SHAPE, 0)
CALLS = 2000


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    with Derainer(backend="torch", device="cpu", precision="fp32") as derainer:
        return derainer([FRAME])[0].image


@pytest.fixture(scope="module")
def tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with an engine; skips, in the backend's own words, where TensorRT is missing or does not take the GPU."""
    folder = tmp_path_factory.mktemp("engines")
    try:
        derainer = Derainer(backend="tensorrt", max_batch=2, cache_dir=str(folder))
    except BackendError as err:
        pytest.skip(str(err))
    with derainer:
        derainer.prepare(*FRAME.shape[:2])
    return folder


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_an_engine_agrees_with_float32_and_is_found_again(precision: str, exact: np.ndarray, tmp_path: Path) -> None:
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bf16 arithmetic")
    with Derainer(backend="tensorrt", precision=precision, max_batch=2, cache_dir=str(tmp_path)) as derainer:
        first, second = derainer([FRAME, FRAME])
    assert psnr(first.image, exact) >= REQUIRED_DB[precision]
    assert np.array_equal(first.image, second.image)
    (proof,) = (entry for entry in EngineCache(tmp_path).entries() if entry.key["kind"] == "proof")
    assert proof.about["agreement_db"] >= REQUIRED_DB[precision]
    told: list[object] = []
    spec = {"precision": precision, "max_batch": 2, "cache_dir": str(tmp_path), "on_build": told.append}
    with Derainer(backend="tensorrt", **spec) as derainer:
        assert psnr(derainer([FRAME])[0].image, first.image) >= REQUIRED_DB[precision]
    assert not told


@pytest.mark.usefixtures("tensorrt")
def test_auto_derains_at_once_and_changes_over(exact: np.ndarray, tmp_path: Path) -> None:
    with Derainer(cache_dir=str(tmp_path), stand_in=True) as derainer:
        derainer.prepare(*FRAME.shape[:2])
        assert psnr(derainer([FRAME])[0].image, exact) >= REQUIRED_DB["fp16"]
        assert derainer.backend_name == "torch"
        end = time.monotonic() + 1200
        # Frames go on while the engine is built, loaded and proven.
        while derainer.backend_name != "tensorrt":
            assert time.monotonic() < end, "no change-over in 20 minutes"
            assert psnr(derainer([FRAME])[0].image, exact) >= REQUIRED_DB["fp16"]
            time.sleep(0.01)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_cuda_graphs_agree_with_float32(precision: str, exact: np.ndarray) -> None:
    with Derainer(backend="torch", device="cuda", precision=precision, max_batch=4) as derainer:
        derainer.prepare(*FRAME.shape[:2])
        for count in (1, 4, 2, 3):
            for derained in derainer([FRAME] * count):
                assert psnr(derained.image, exact) >= REQUIRED_DB[precision]


@pytest.fixture(params=["torch", "tensorrt"])
def derainer(request: pytest.FixtureRequest) -> Iterator[Derainer]:
    cache = str(request.getfixturevalue("tensorrt")) if request.param == "tensorrt" else ""
    with Derainer(backend=request.param, device="cuda", max_batch=2, cache_dir=cache) as derainer:
        derainer.prepare(*FRAME.shape[:2])
        yield derainer


def test_memory_of_the_gpu_stays_flat(derainer: Derainer) -> None:
    def run(calls: int) -> None:
        for call in range(calls):
            derainer([FRAME] * (1 + call % 2))

    run(10)
    before = torch.cuda.mem_get_info()[0]
    run(CALLS)
    assert torch.cuda.mem_get_info()[0] == before


def test_no_frame_waits_for_a_batch_size_that_is_new(derainer: Derainer) -> None:
    def seconds(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    first = seconds(lambda: derainer([FRAME, FRAME]))
    usual = min(seconds(lambda: derainer([FRAME, FRAME])) for _ in range(20))
    assert first < usual + 0.1  # a capture, or kernels that are compiled, take far longer
