"""The TensorRT backend on stand-ins for TensorRT and CUDA: which library runs, whose faults are whose, the proof."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch

from sapnet.backends import BackendSpec, devices
from sapnet.backends.base import EngineShape, Frames
from sapnet.backends.engines import build_onnx, tensorrt
from sapnet.backends.engines.build_onnx import RTX, TENSORRT
from sapnet.backends.engines.cache import EngineCache, Entry, write_entry
from sapnet.backends.engines.tensorrt import Engine, TensorRtBackend, choose_library, prove
from sapnet.backends.torch import TorchBackend
from sapnet.errors import BackendError, EngineCacheError, UnfitEngineError
from sapnet.model.deploy import load_deploy_network

SHAPE = EngineShape(16, 18, 3)


class Diagnostics(IntEnum):
    VERSION_MISMATCH = 1
    OLD_CUDA_DRIVER = 4
    INSUFFICIENT_GPU_MEMORY = 16


@pytest.fixture
def trt(cuda: object, monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT-RTX, which takes every engine, on a GPU of compute capability 8.9, neither of which is there."""
    trt = MagicMock(__version__="1.7.1", EngineInvalidityDiagnostics=Diagnostics)
    trt.__name__ = RTX
    trt.ILogger = type("ILogger", (), {"ERROR": "error", "INTERNAL_ERROR": "internal"})
    trt.runtime = trt.Runtime.return_value
    trt.runtime.get_engine_validity.return_value = trt.EngineValidity.VALID, 0
    trt.engine = trt.runtime.deserialize_cuda_engine.return_value
    trt.engine.device_memory_size_v2 = 4096
    trt.config = trt.engine.create_runtime_config.return_value
    trt.config.create_runtime_cache.return_value.serialize.return_value = b"kernels"
    monkeypatch.setattr(tensorrt.CudaRunner, "close", trt.close)
    monkeypatch.setattr(tensorrt, "choose_library", lambda: trt)
    monkeypatch.setattr(build_onnx, "load_library", lambda name: trt)
    monkeypatch.setattr(devices, "find_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(devices, "driver_version", lambda: "CUDA 13010")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 4090")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", Mock())
    return trt


@pytest.fixture
def backend(trt: Any, tiny_weights: Path, tmp_path: Path) -> TensorRtBackend:
    return make(tiny_weights, tmp_path)


def make(weights: Path, folder: Path, **more: Any) -> TensorRtBackend:
    return TensorRtBackend(BackendSpec(str(weights), max_batch=3, cache_dir=str(folder), **more))


def engine_of(backend: TensorRtBackend, folder: Path) -> Entry:
    key = backend._requests(SHAPE)[0].key()
    return EngineCache(folder).store(key, b"an engine", {})


def test_all_batch_sizes_share_memory_and_kernels_are_stored_once(trt, backend, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tensorrt, "prove", lambda *args: 61.0)
    stores: list[str] = []
    store = EngineCache.store
    monkeypatch.setattr(
        EngineCache, "store", lambda self, key, *more: stores.append(key["kind"]) or store(self, key, *more)
    )
    engine_of(backend, tmp_path)
    backend.prepare(1, 16, 18)
    memories = trt.engine.create_execution_context.return_value.set_device_memory.call_args_list
    assert len(memories) == 3
    assert all(memory == memories[0] for memory in memories)  # one buffer for all
    assert memories[0].args[1] == 4096
    trt.config.set_execution_context_allocation_strategy.assert_called_once_with(
        trt.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    assert stores == ["engine", "kernels", "proof"]
    assert all(backend.is_ready(batch, 16, 18) for batch in (1, 2, 3))
    again = TensorRtBackend(backend._spec)
    again.prepare(1, 16, 18)
    assert stores == ["engine", "kernels", "proof"]
    assert len({call.args for call in trt.Runtime.call_args_list}) == 1


@pytest.mark.parametrize(
    ("cause", "unfit"),
    [
        (Diagnostics.VERSION_MISMATCH, True),
        (Diagnostics.INSUFFICIENT_GPU_MEMORY, False),
        (Diagnostics.OLD_CUDA_DRIVER, False),
        ("Error Code 1: Serialization (magic tag does not match)", True),
        ("Error Code 2: OutOfMemory (Requested size was 1 bytes.)", False),
        ("Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)", False),
    ],
)
def test_a_refused_engine_is_unfit_unless_others_are_to_blame(cause, unfit, trt, backend, tmp_path) -> None:
    if isinstance(cause, Diagnostics):
        trt.runtime.get_engine_validity.return_value = trt.EngineValidity.INVALID, cause
        said = f"TensorRT-RTX calls the engine invalid on this machine: {cause.name.lower().replace('_', ' ')}"
    else:
        trt.runtime.deserialize_cuda_engine = lambda data: trt.Runtime.call_args.args[0].log("error", cause)
        said = f"TensorRT does not take the engine: {cause}"
    with pytest.raises(BackendError) as caught:
        backend._load(engine_of(backend, tmp_path), SHAPE)
    assert str(caught.value) == said
    assert isinstance(caught.value, UnfitEngineError) == unfit
    trt.runtime.get_engine_validity.return_value = trt.EngineValidity.INVALID, 0
    with pytest.raises(BackendError, match="no reason given"):  # not the one before
        backend._load(engine_of(backend, tmp_path), SHAPE)


def test_memory_that_runs_out_in_the_proof_is_an_error_of_the_backend(trt, backend, tmp_path, monkeypatch) -> None:
    run_out = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.\nmore"))
    monkeypatch.setattr(tensorrt, "prove", run_out)
    engine_of(backend, tmp_path)
    with pytest.raises(BackendError, match=r"cannot be made ready: CUDA out of memory$"):
        backend.prepare(1, 16, 18)
    trt.close.assert_called()
    assert [entry.key["kind"] for entry in EngineCache(tmp_path).entries()].count("engine") == 1


def test_a_proof_that_cannot_be_kept_stops_nobody(backend, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(tensorrt, "prove", lambda *args: 61.0)
    entry = engine_of(backend, tmp_path)
    monkeypatch.setattr(EngineCache, "store", Mock(side_effect=EngineCacheError("read-only file system")))
    backend._load(entry, SHAPE)
    assert "the engine's proof cannot be kept and is made anew at each start: read-only file system" in caplog.text


def test_the_real_library_calls_rubbish_malformed(trt, tmp_path: Path) -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
    cache = EngineCache(tmp_path)
    entry = cache.store({"kind": "engine", "library": RTX}, b"no engine" * 1000, {})
    with pytest.raises(UnfitEngineError, match=r"invalid on this machine: malformed engine$"):
        Engine(real, entry, SHAPE, torch.device("cuda", 0), cache)


class TestGivenFiles:
    @pytest.fixture
    def give(self, backend: TensorRtBackend, tmp_path: Path) -> Callable[..., Path]:
        """Writes an engine file as another machine builds it, with another key where one is given."""

        def give(**other: object) -> Path:
            key = {**backend._requests(SHAPE)[0].key(), "target": "portable", **other}
            return write_entry(tmp_path / "given.engine", key, b"an engine", {"agreement_db": 70.0}).path

        return give

    def test_are_proven_on_each_gpu_and_driver_once(self, give, tiny_weights, tmp_path, monkeypatch) -> None:
        proven: list[object] = []
        monkeypatch.setattr(tensorrt, "prove", lambda *args: proven.append(args) or 61.0)
        file = str(give())
        for driver, count in (("CUDA 13010", 1), ("CUDA 13010", 1), ("CUDA 13020", 2)):
            monkeypatch.setattr(devices, "driver_version", lambda driver=driver: driver)
            assert make(tiny_weights, tmp_path, engine=file).is_ready(3, 16, 18)
            assert len(proven) == count

    @pytest.mark.parametrize("other", [{"code": "older"}, {"version": "1.6"}, {"stages": 1}])
    def test_for_something_else_are_refused(self, other, give, tiny_weights, tmp_path) -> None:
        ((name, value),) = other.items()
        with pytest.raises(BackendError, match=f"built for {name} {value!r}, but .* is needed here"):
            make(tiny_weights, tmp_path, engine=str(give(**other)))


class TestLibrary:
    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
        modules = {name: ModuleType(name) for name in (TENSORRT, RTX)}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return modules

    def test_tensorrt_then_rtx(self, installed, monkeypatch, caplog) -> None:
        assert choose_library() is installed[TENSORRT]
        monkeypatch.setitem(sys.modules, TENSORRT, None)
        assert choose_library() is installed[RTX]
        assert not caplog.records
        monkeypatch.setitem(sys.modules, RTX, None)
        with pytest.raises(BackendError, match=r"python3-libnvinfer.*; tensorrt_rtx.*pip install tensorrt_rtx onnx"):
            choose_library()

    def test_rtx_where_another_library_has_the_name_of_tensorrt(self, installed, monkeypatch, caplog) -> None:
        """As torch-tensorrt-rtx has it."""
        monkeypatch.setitem(sys.modules, TENSORRT, installed[RTX])
        assert choose_library() is installed[RTX]
        assert "tensorrt_rtx builds and runs the engines: got tensorrt_rtx under the name tensorrt" in caplog.text

    @pytest.mark.usefixtures("trt")
    def test_a_gpu_that_rtx_does_not_support_is_refused(self, tiny_weights, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        with pytest.raises(BackendError, match=r"the compute capability 9\.0 of RTX 4090, expected 7\.5, 8\.0"):
            make(tiny_weights, tmp_path)


class TestProof:
    spec = BackendSpec(device="cpu", precision="fp32", stages=1)

    def prove(self, infer: Callable[[Frames], tuple[Frames, Frames]], precision: str = "fp32") -> float:
        network = load_deploy_network(self.spec.weights, self.spec.stages)
        return prove(infer, network, EngineShape(48, 64, 2), precision, torch.device("cpu"))

    def test_what_is_a_little_off_is_refused_with_the_figure(self) -> None:
        backend = TorchBackend(self.spec)

        def off(frames: Frames) -> tuple[Frames, Frames]:
            derained, streaks = backend.infer(frames)
            return derained ^ 1, streaks

        with pytest.raises(UnfitEngineError, match=r"48x64, .* in fp32 agrees .* by 48\.1 dB only, 65 dB are needed"):
            self.prove(off)
        assert self.prove(off, "bf16") == 48.1
        assert self.prove(backend.infer) >= 65

    def test_every_frame_of_the_largest_batch_is_proven(self) -> None:
        backend = TorchBackend(self.spec)

        def repeats_the_first(frames: Frames) -> tuple[Frames, Frames]:
            return backend.infer(np.repeat(frames[:1], len(frames), axis=0))

        with pytest.raises(UnfitEngineError, match="agrees with float32 by"):
            self.prove(repeats_the_first)
