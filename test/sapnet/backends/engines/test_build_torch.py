"""The builder for TensorRT: what it asks of each version of torch-tensorrt, and the export that it hands over.

torch-tensorrt needs a GPU, so that most of these run a stand-in that records how it is called.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sapnet.backends.base import EngineShape
from sapnet.backends.engines import build_torch
from sapnet.config import ModelConfig
from sapnet.errors import BackendError
from sapnet.model import DeployNet, SAPNet

SHAPE = EngineShape(17, 18, max_batch=3)
CPU = torch.device("cpu")


class FakeTorchTensorrt:
    """Stands in for the module ``torch_tensorrt``, and keeps what was asked of it."""

    Input = SimpleNamespace

    def __init__(self, version: str, is_rtx: bool, convert: Callable[[], bytes]) -> None:
        self.__version__ = version
        self.ENABLED_FEATURES = SimpleNamespace(tensorrt_rtx=is_rtx)
        self.dynamo = self
        self.conversion = SimpleNamespace(
            dynamo_tensorrt_converter=self._register, ConverterPriority=SimpleNamespace(HIGH="high")
        )
        self.convert = convert
        self.program: Any = None
        self.options: dict[str, Any] = {}
        self.converters: list[Any] = []

    def convert_exported_program_to_serialized_trt_engine(self, program: Any, **options: Any) -> bytes:
        self.program, self.options = program, options
        assert Path(options["timing_cache_path"]).parent.is_dir()
        return self.convert()

    def _register(self, target: Any, **how: Any) -> Callable[[Any], None]:
        return lambda converter: self.converters.append(SimpleNamespace(target=target, convert=converter, **how))


@pytest.fixture
def install(monkeypatch):
    """``install(version, is_rtx=False, convert=...)``: put a stand-in in the place of torch_tensorrt."""
    trt = ModuleType("tensorrt")
    trt.__version__ = "10.3.0"
    trt.DataType = SimpleNamespace(UINT8="uint8")
    monkeypatch.setitem(sys.modules, "tensorrt", trt)

    def install(version: str, is_rtx: bool = False, convert: Any = lambda: b"engine") -> Any:
        fake = FakeTorchTensorrt(version, is_rtx, convert)
        monkeypatch.setitem(sys.modules, "torch_tensorrt", fake)
        return fake

    return install


@pytest.fixture(scope="module")
def network():
    config = ModelConfig(channels=4, dilations=(1,), downscale=2, stages=1, reduction=2, separable=True)
    return DeployNet(SAPNet(config)).eval()


@pytest.fixture
def no_export(monkeypatch):
    """Exporting takes seconds; here is what takes none."""
    empty = SimpleNamespace(graph=torch.fx.Graph(), graph_module=SimpleNamespace(recompile=lambda: None))
    monkeypatch.setattr(build_torch, "export", lambda *args: empty)


def build(network: DeployNet, folder: Path) -> bytes:
    return build_torch.build_engine(network, SHAPE, "fp16", folder, lambda step, share: None, device="cpu")


class TestCalls:
    """What each version is asked for."""

    def test_asks_for_the_whole_graph_and_no_cache(self, install, no_export, network, tmp_path):
        fake = install("2.13.0")
        assert build(network, tmp_path / "cache") == b"engine"
        options = dict(fake.options)
        timings = Path(options.pop("timing_cache_path"))
        assert timings.parent.parent == tmp_path / "cache"
        assert not timings.parent.exists()
        (frames,) = options.pop("arg_inputs")
        one, three = (1, 17, 18, 3), (3, 17, 18, 3)
        assert vars(frames) == {"min_shape": one, "opt_shape": three, "max_shape": three, "dtype": torch.uint8}
        assert options == {
            "disable_tf32": True,
            "require_full_compilation": True,
            "num_avg_timing_iters": 8,
            "cache_built_engines": False,
            "reuse_cached_engines": False,
            "engine_cache_dir": str(timings.parent),
            "device": CPU,
        }


def log_as_tensorrt() -> bytes:
    logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").error("Error Code 10: no kernel")
    raise AssertionError


class TestFailures:
    @pytest.mark.parametrize(
        ("convert", "reason"),
        [
            (log_as_tensorrt, "Error Code 10: no kernel"),
            (lambda: b"", "it returned no engine"),
        ],
    )
    def test_say_the_first_cause(self, install, no_export, network, tmp_path, convert, reason):
        install("2.13.0", convert=convert)
        expected = f"cannot build the engine for 17x18, batch 1 to 3 in fp16: {reason}; use backend 'torch'"
        with pytest.raises(BackendError, match=re.escape(expected)):
            build(network, tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestVersions:
    @pytest.mark.parametrize("version", ["2.10.0", "2.14.1+cu132"])
    def test_supported(self, install, version):
        install(version)
        assert build_torch.load_library().__version__ == "10.3.0"

    @pytest.mark.parametrize("version", ["2.9.0", "2.15.0", "nightly"])
    def test_unsupported(self, install, network, tmp_path, version):
        fake = install(version)
        for call in (build_torch.load_library, lambda: build(network, tmp_path)):
            with pytest.raises(BackendError, match=f"got torch-tensorrt {version}, expected 2.10 to 2.14; install"):
                call()
        assert fake.options == {}

    def test_other_flavour(self, install):
        install("2.13.0", is_rtx=True)
        with pytest.raises(BackendError, match=r"got torch-tensorrt-rtx.*expected torch-tensorrt"):
            build_torch.load_library()

    def test_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
        with pytest.raises(BackendError, match=r"cannot be loaded.*install torch-tensorrt 2.10 to 2.14"):
            build_torch.load_library()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_builds_for_real(network, precision, tmp_path):
    try:
        build_torch.load_library()
    except BackendError as err:
        pytest.skip(f"cannot run here: {err}")
    import tensorrt as trt

    data = build_torch.build_engine(network, SHAPE, precision, tmp_path, lambda step, share: None)
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(data)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert names == ["frames", "output0", "output1"]
    assert {engine.get_tensor_dtype(name) for name in names} == {trt.DataType.UINT8}
    shapes = [tuple(engine.get_tensor_shape(name)) for name in names]
    assert shapes == [(-1, 17, 18, 3), (-1, 17, 18, 3), (-1, 17, 18)]
    sizes = [tuple(size) for size in engine.get_tensor_profile_shape("frames", 0)]
    assert sizes == [(batch, 17, 18, 3) for batch in (1, 3, 3)]
