"""The TensorRT backend on stand-ins for TensorRT and CUDA: which library runs, whose faults are whose, the proof."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sapnet.backends import BackendSpec, devices
from sapnet.backends.base import EngineShape, Frames
from sapnet.backends.engines import build_onnx, tensorrt
from sapnet.backends.engines.build_onnx import RTX, TENSORRT
from sapnet.backends.engines.cache import EngineCache, Entry, write_entry
from sapnet.backends.engines.tensorrt import EngineRunner, TensorRtBackend, choose_library, prove
from sapnet.backends.torch import TorchBackend
from sapnet.errors import BackendError, EngineCacheError, UnfitEngineError
from sapnet.model.deploy import load_deploy_network

SHAPE = EngineShape(16, 18, 3)


class Diagnostics(IntEnum):
    VERSION_MISMATCH = 1
    OLD_CUDA_DRIVER = 4
    INSUFFICIENT_GPU_MEMORY = 16


class Rtx:
    """Stands in for the module tensorrt_rtx."""

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal"

    EngineValidity = SimpleNamespace(VALID="valid", SUBOPTIMAL="suboptimal", INVALID="invalid")
    EngineInvalidityDiagnostics = Diagnostics
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    __name__, __version__ = "tensorrt_rtx", "1.7.1"

    def __init__(self) -> None:
        self.validity: tuple[str, int] = ("valid", 0)
        self.refusal = ""
        self.memories: list[tuple[int, int]] = []  # of each context
        self.strategies: list[str] = []
        self.loggers: list[Any] = []

    def Runtime(self, logger: Any) -> Rtx:
        self.loggers.append(logger)
        return self

    def get_engine_validity(self, data: bytes) -> tuple[str, int]:
        return self.validity

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        if self.refusal:
            self.loggers[-1].log("error", self.refusal)
            return None
        return Engine(self)


class Kernels:
    serialized: bytes | None = b"kernels"

    def deserialize(self, data: bytes) -> bool:
        self.stored = data
        return True

    def serialize(self) -> bytes | None:
        return self.serialized


class Engine:
    """Gives the frames back, and no streaks."""

    device_memory_size_v2 = 4096

    def __init__(self, trt: Rtx) -> None:
        self.trt = trt

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(
            create_runtime_cache=Kernels,
            set_runtime_cache=lambda cache: None,
            set_execution_context_allocation_strategy=self.trt.strategies.append,
        )

    def create_execution_context(self, *config: object) -> Any:
        return SimpleNamespace(
            set_device_memory=lambda *memory: self.trt.memories.append(memory),
            set_input_shape=lambda name, shape: None,
            set_tensor_address=lambda name, address: None,
            execute_async_v3=lambda stream: True,
        )


class Runner:
    """Stands in for CudaRunner."""

    closed = False

    def __init__(self, device: torch.device, shape: EngineShape, enqueue: Any, use_graphs: bool) -> None:
        self._device, self.shape, self.enqueue = device, shape, enqueue

    def warm_up(self) -> None:
        for batch in range(self.shape.max_batch, 0, -1):
            frames = torch.zeros(batch, self.shape.height, self.shape.width, 3, dtype=torch.uint8)
            self.enqueue(frames, frames.clone(), frames[..., 0].clone())

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        return frames, frames[..., 0]

    def close(self) -> None:
        Runner.closed = True


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> Rtx:
    """TensorRT-RTX on a GPU of compute capability 8.9, neither of which is there."""
    trt = Rtx()
    monkeypatch.setattr(Runner, "closed", False)
    for name in ("__init__", "warm_up", "infer", "close"):
        monkeypatch.setattr(tensorrt.CudaRunner, name, vars(Runner)[name])
    monkeypatch.setattr(devices, "find_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(devices, "driver_version", lambda: "CUDA 13010")
    for name, value in {"get_device_name": "RTX 4090", "get_device_capability": (8, 9)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=1))
    monkeypatch.setattr(tensorrt, "choose_library", lambda: trt)
    monkeypatch.setattr(build_onnx, "load_library", lambda name: trt)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device, **how: empty(*size, **how))
    return trt


@pytest.fixture
def backend(trt: Rtx, tiny_weights: Path, tmp_path: Path) -> TensorRtBackend:
    return make(tiny_weights, tmp_path)


def make(weights: Path, folder: Path, **more: Any) -> TensorRtBackend:
    return TensorRtBackend(BackendSpec(str(weights), max_batch=3, cache_dir=str(folder), **more))


def engine_of(backend: TensorRtBackend, folder: Path) -> Entry:
    key = backend._requests(SHAPE)[0].key()
    return EngineCache(folder).store(key, b"an engine", {})


def prove_well(*args: object) -> float:
    return 61.0


def kinds(folder: Path) -> list[str]:
    return sorted(str(entry.key["kind"]) for entry in EngineCache(folder).entries())


def test_all_batch_sizes_share_memory_and_kernels_are_stored_once(trt, backend, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tensorrt, "prove", prove_well)
    stores: list[str] = []
    store = EngineCache.store
    monkeypatch.setattr(
        EngineCache, "store", lambda self, key, *more: stores.append(key["kind"]) or store(self, key, *more)
    )
    engine_of(backend, tmp_path)
    backend.prepare(1, 16, 18)
    assert len(trt.memories) == 3
    assert len(set(trt.memories)) == 1  # one buffer for all
    assert trt.memories[0][1] == 4096
    assert trt.strategies == ["user"]
    assert stores == ["engine", "kernels", "proof"]
    assert all(backend.is_ready(batch, 16, 18) for batch in (1, 2, 3))
    again = TensorRtBackend(backend._spec)
    again.prepare(1, 16, 18)
    assert stores == ["engine", "kernels", "proof"]
    assert len(set(trt.loggers)) == 1


@pytest.mark.parametrize(
    ("reasons", "unfit"),
    [
        (Diagnostics.VERSION_MISMATCH, True),
        (Diagnostics.INSUFFICIENT_GPU_MEMORY, False),
        (Diagnostics.OLD_CUDA_DRIVER, False),
    ],
)
def test_an_invalid_engine_is_unfit_unless_others_are_to_blame(reasons, unfit, trt, backend, tmp_path) -> None:
    trt.validity = "invalid", reasons
    with pytest.raises(BackendError, match="calls the engine invalid on this machine") as caught:
        backend._load(engine_of(backend, tmp_path), SHAPE)
    assert isinstance(caught.value, UnfitEngineError) == unfit
    assert Runner.closed


@pytest.mark.parametrize(
    ("said", "unfit"),
    [
        ("Error Code 1: Serialization (magic tag does not match)", True),
        ("Error Code 2: OutOfMemory (Requested size was 1 bytes.)", False),
        ("Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)", False),
    ],
)
def test_an_engine_that_is_not_taken(said, unfit, trt, backend, tmp_path) -> None:
    trt.refusal = said
    with pytest.raises(BackendError) as caught:
        backend._load(engine_of(backend, tmp_path), SHAPE)
    assert str(caught.value) == f"TensorRT does not take the engine: {said}"
    assert isinstance(caught.value, UnfitEngineError) == unfit
    trt.refusal, trt.validity = "", ("invalid", 0)
    with pytest.raises(BackendError, match="no reason given"):  # not the one before
        backend._load(engine_of(backend, tmp_path), SHAPE)


def test_memory_that_runs_out_in_the_proof_is_an_error_of_the_backend(backend, tmp_path, monkeypatch) -> None:
    def run_out(*args: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr(tensorrt, "prove", run_out)
    engine_of(backend, tmp_path)
    with pytest.raises(BackendError, match=r"cannot be made ready: CUDA out of memory\.$"):
        backend.prepare(1, 16, 18)
    assert Runner.closed
    assert "engine" in kinds(tmp_path)


def test_a_proof_that_cannot_be_kept_stops_nobody(backend, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(tensorrt, "prove", prove_well)
    entry = engine_of(backend, tmp_path)

    def refuse(*args: object) -> None:
        raise EngineCacheError("read-only file system")

    monkeypatch.setattr(EngineCache, "store", refuse)
    with caplog.at_level(logging.WARNING, logger="sapnet"):
        backend._load(entry, SHAPE)
    assert "the engine's proof cannot be kept and is made anew at each start: read-only file system" in caplog.text


@pytest.mark.usefixtures("trt")
def test_the_real_library_calls_rubbish_malformed(tmp_path: Path) -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
    cache = EngineCache(tmp_path)
    entry = cache.store({"kind": "engine", "library": RTX}, b"no engine" * 1000, {})
    with pytest.raises(UnfitEngineError, match=r"invalid on this machine: malformed engine$"):
        EngineRunner(real, entry, SHAPE, torch.device("cuda", 0), cache)
    assert Runner.closed


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
        with caplog.at_level(logging.WARNING, logger="sapnet"):
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
