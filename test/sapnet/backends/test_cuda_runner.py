"""The runner of all CUDA backends, on stand-ins for CUDA that compute on the CPU and note what is asked of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from sapnet.backends import BackendSpec, devices
from sapnet.backends.base import EngineShape
from sapnet.backends.cuda_runner import CudaRunner
from sapnet.backends.torch import TorchBackend
from sapnet.errors import BackendError

SHAPE = EngineShape(16, 18, max_batch=3)
CPU = torch.device("cpu")
Captures = list[tuple[Any, object]]


def invert(frames: Tensor, derained: Tensor, streaks: Tensor) -> None:
    derained.copy_(255 - frames)
    streaks.copy_(frames[..., 0])


def make(enqueue: Any = invert, use_graphs: bool = True) -> CudaRunner:
    return CudaRunner(CPU, SHAPE, enqueue, use_graphs)


def noise(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (batch, 16, 18, 3), np.uint8)


def test_all_batch_sizes_are_captured_at_once_the_largest_first(cuda: Captures) -> None:
    batches: list[int] = []
    runner = make(lambda frames, *outputs: batches.append(len(frames)))
    runner.warm_up()
    assert batches == [3] * 4 + [2] * 4 + [1] * 4
    for batch in (2, 1, 3, 2):
        runner.infer(noise(batch))
    assert len(batches) == 12
    graphs, pools = zip(*cuda, strict=True)
    assert [graph.replay.call_count for graph in graphs] == [2, 3, 2]
    assert pools == (None, graphs[0].pool(), graphs[0].pool())


@pytest.mark.usefixtures("cuda")
def test_where_capture_is_impossible_frames_run_uncaptured_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse = Mock(side_effect=RuntimeError("operation not permitted when stream is capturing"))
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    runner = make()
    runner.warm_up()
    for batch in (1, 3, 2, 1):
        assert np.array_equal(runner.infer(noise(batch))[0], 255 - noise(batch))
    (warning,) = caplog.records
    assert "16x18, batch 1 to 3 run without CUDA graphs, which is slower: operation not permitted" in warning.message


@pytest.mark.usefixtures("cuda")
def test_a_capture_waits_for_who_loads_an_engine_and_a_replay_does_not() -> None:
    runner = make()
    with ThreadPoolExecutor(1) as another:
        with devices.PREPARING:
            captured = another.submit(runner.infer, noise(1))
            with pytest.raises(TimeoutError):
                captured.result(0.2)
        captured.result(30)
        with devices.PREPARING:
            another.submit(runner.infer, noise(1)).result(30)


@pytest.mark.usefixtures("cuda")
def test_memory_that_runs_out_is_an_error_of_the_backend_and_frees_the_rest() -> None:
    runner = make(Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")))
    with pytest.raises(BackendError, match=r"failed on 3 frame\(s\): CUDA out of memory\. Tried to allocate$"):
        runner.warm_up()
    with pytest.raises(BackendError, match="closed"):
        runner.infer(noise(1))


class TestTorch:
    """The CUDA torch backend on the same stand-ins."""

    @pytest.fixture
    def backend(self, cuda: Captures, tiny_weights: Path) -> TorchBackend:
        return TorchBackend(BackendSpec(str(tiny_weights), device="cpu", precision="fp32", max_batch=2))

    def test_captures_every_batch_size_and_float32_without_tf32(self, backend: TorchBackend, preparing: Any) -> None:
        seen: list[tuple[int, str, bool]] = []

        def note(module: object, inputs: tuple[torch.Tensor, ...], outputs: object) -> None:
            seen.append((len(inputs[0]), torch.backends.cudnn.conv.fp32_precision, preparing()))

        assert backend._network is not None
        backend._network.register_forward_hook(note)
        runner = backend._get(1, 16, 18)
        assert set(seen) == {(2, "ieee", True), (1, "ieee", True)}
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
        assert runner.infer(noise(1))[0].shape == (1, 16, 18, 3)

    def test_forgets_a_size(self, backend: TorchBackend, monkeypatch: pytest.MonkeyPatch, preparing: Any) -> None:
        emptied: list[bool] = []
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(preparing()))
        runner = backend._get(1, 16, 18)
        backend.forget(16, 18)
        assert emptied == [True]
        with pytest.raises(BackendError, match="closed"):
            runner.infer(noise(1))
