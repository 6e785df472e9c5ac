from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sapnet import backends
from sapnet.backends import BackendSpec, create_backend
from sapnet.backends.base import Backend, EngineShape
from sapnet.backends.devices import processor_name
from sapnet.errors import BackendError

torch = pytest.importorskip("torch")
REAL = ("torch", "openvino")


def batch(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture(scope="module")
def spec(tiny_weights):
    def make(**settings):
        return BackendSpec(weights=str(tiny_weights), **{"device": "cpu", "precision": "fp32", **settings})

    return make


@pytest.fixture(scope="module")
def backend(name, spec):
    """One backend for many tests: OpenVINO's conversion takes a second."""
    return create_backend(name, spec(max_shapes=2))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "_GPU_NODES", ())


def hide(monkeypatch, library, backend):
    """Make ``import library`` fail, and the backend's module be imported anew."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"sapnet.backends.{backend}", raising=False)


def warnings_of(caplog):
    return [record for record in caplog.records if record.name == "sapnet" and record.levelno == logging.WARNING]


@pytest.mark.parametrize("name", REAL, scope="module")
class TestRealBackends:
    def test_from_several_threads(self, name, backend, spec):
        inputs = [batch(1, 19, 22 + 2 * (seed % 2), seed=seed) for seed in range(6)]
        expected = [backend.infer(frames)[0] for frames in inputs]
        fresh = create_backend(name, spec())

        def work(index):
            if index % 2:
                fresh.prepare(*inputs[index].shape[:3])
            return [fresh.infer(inputs[index])[0] for _ in range(4)]

        with ThreadPoolExecutor(6) as threads:
            results = list(threads.map(work, range(6)))
        assert all(np.array_equal(one, expected[index]) for index in range(6) for one in results[index])
        fresh.close()
        fresh.close()
        with pytest.raises(BackendError, match="closed"):
            fresh.infer(inputs[0])

    def test_cuda_is_refused_where_it_cannot_be(self, name, spec, no_gpu):
        with pytest.raises(BackendError, match=r"'cuda'.*'cpu'"):
            create_backend(name, spec(device="cuda"))


class TestTorch:
    @pytest.mark.parametrize("fault", [RuntimeError("CUDA out of memory. Tried"), MemoryError()])
    def test_faults_of_torch_are_chained(self, spec, monkeypatch, fault):
        backend = create_backend("torch", spec())

        def fail(*_):
            raise fault

        monkeypatch.setattr(torch.nn.functional, "pixel_unshuffle", fail)
        with pytest.raises(BackendError, match=r"1 frame.* of 16x18") as caught:
            backend.infer(batch(1, 16, 18))
        assert caught.value.__cause__ is fault


@pytest.mark.parametrize("name", ["openvino"], scope="module")
class TestOpenVino:
    @pytest.mark.parametrize("shape", [(1, 16, 16), (1, 17, 33), (2, 48, 31), (1, 64, 96)])
    def test_gives_what_torch_gives(self, backend, spec, shape):
        theirs = backend.infer(batch(*shape))
        ours = create_backend("torch", spec()).infer(batch(*shape))
        for got, expected in zip(theirs, ours, strict=True):
            assert np.abs(got.astype(int) - expected).max() <= 1


class TestTensorRt:
    def test_says_that_there_is_no_gpu(self, no_gpu):
        pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
        with pytest.raises(BackendError, match=r"'tensorrt' needs a GPU.*no CUDA GPU.*check the NVIDIA driver"):
            create_backend("tensorrt", BackendSpec())


class TestAuto:
    def test_openvino_on_the_cpu(self, spec, no_gpu, caplog):
        with caplog.at_level(logging.DEBUG, logger="sapnet"):
            assert create_backend("auto", spec(device="auto")).name == "openvino"
        assert not warnings_of(caplog)
        assert [record.levelno for record in caplog.records if record.name == "sapnet"] == [logging.INFO]

    def test_torch_where_openvino_is_missing(self, spec, no_gpu, monkeypatch, caplog):
        hide(monkeypatch, "openvino", "openvino")
        backend = create_backend("auto", spec(device="cpu"))
        assert (backend.name, backend.device) == ("torch", processor_name())
        (warning,) = warnings_of(caplog)
        assert "pip install openvino" in warning.getMessage()

    def test_says_that_a_gpu_lies_idle(self, spec, no_gpu, monkeypatch, caplog, tmp_path):
        monkeypatch.setattr(backends, "_GPU_NODES", (tmp_path,))
        assert create_backend("auto", spec(device="auto")).name == "openvino"
        assert len(warnings_of(caplog)) == 2  # TensorRT and CUDA torch

    def test_says_that_an_engine_file_is_of_no_use_here(self, spec, no_gpu, caplog):
        create_backend("auto", spec(device="auto", engine="my.engine")).close()
        assert "a faster one is missing: " in caplog.text

    def test_does_not_leave_the_gpu_that_was_asked_for(self, spec, no_gpu):
        with pytest.raises(BackendError, match=r"no backend can run on device 'cuda:1'.*finds no CUDA GPU"):
            create_backend("auto", spec(device="cuda:1"))

    @pytest.mark.parametrize("stand_in", [False, True])
    def test_stands_in_for_an_engine_only_where_asked_to(self, stand_in, monkeypatch):
        made = {"tensorrt": create_backend("fake", BackendSpec()), "torch": create_backend("fake", BackendSpec())}
        monkeypatch.setattr(backends, "_create", lambda name, spec: made[name])
        backend = create_backend("auto", BackendSpec(device="cuda", stand_in=stand_in))
        assert isinstance(backend, backends.Standby) == stand_in
        assert (backend is made["tensorrt"]) != stand_in


class Runner:
    closed = False

    def __init__(self, height, width):
        self.shape = EngineShape(height, width, max_batch=3)

    def close(self):
        self.closed = True


class Sized(Backend):
    """Keeps two runners, each for up to three frames at once, and takes its time to make them."""

    name = "sized"

    def __init__(self):
        super().__init__(BackendSpec(max_shapes=2))
        self.made = []
        self.making = threading.Event()

    def _make(self, batch, height, width):
        self.making.set()
        time.sleep(0.1)
        self.made.append(Runner(height, width))
        return self.made[-1]

    def prepare_width(self, width):
        self.prepare(1, 16, width)


class TestRunnersBySize:
    def test_the_least_recently_used_is_closed_first(self):
        sized = Sized()
        sized.prepare(1, 16, 16)
        sized.prepare(1, 16, 18)
        assert sized.is_ready(3, 16, 16)
        assert not sized.is_ready(4, 16, 16)
        sized.prepare(1, 16, 20)
        assert [runner.closed for runner in sized.made] == [False, True, False]
        assert not sized.is_ready(1, 16, 18)
        sized.forget(16, 16)
        sized.forget(16, 16)
        assert sized.made[0].closed

    def test_threads_share_what_one_of_them_makes(self):
        sized = Sized()
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(sized.prepare_width, (16, 16, 16)))
        assert [runner.closed for runner in sized.made] == [False]

    def test_closed_it_keeps_nothing(self):
        sized = Sized()
        sized.prepare(1, 16, 16)
        sized.making.clear()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(sized.prepare_width, 18)
            assert sized.making.wait(30)
            sized.close()
        assert [runner.closed for runner in sized.made] == [True, True]
        with pytest.raises(BackendError, match="closed"):
            sized.is_ready(1, 16, 16)
