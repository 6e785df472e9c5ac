from __future__ import annotations

import logging
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest

from sapnet import backends
from sapnet.backends import BackendSpec, create_backend
from sapnet.backends.devices import processor_name
from sapnet.errors import BackendError

torch = pytest.importorskip("torch")


def batch(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture(scope="module")
def spec(tiny_weights):
    def make(**settings):
        return BackendSpec(weights=str(tiny_weights), **{"device": "cpu", "precision": "fp32", **settings})

    return make


@pytest.fixture(scope="module")
def openvino(spec):
    """One backend for many tests: the conversion takes a second."""
    return create_backend("openvino", spec(max_shapes=2))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_from_several_threads(name, spec):
    inputs = [batch(1, 19, 22 + 2 * (seed % 2), seed=seed) for seed in range(6)]
    backend = create_backend(name, spec())

    def work(index):
        if index % 2:
            backend.prepare(*inputs[index].shape[:3])
        return [backend.infer(inputs[index])[0] for _ in range(4)]

    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(work, range(6)))
    expected = [backend.infer(frames)[0] for frames in inputs]
    assert all(np.array_equal(one, expected[index]) for index in range(6) for one in results[index])
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.infer(inputs[0])


@pytest.mark.parametrize("fault", [RuntimeError("CUDA out of memory. Tried"), MemoryError()])
def test_faults_of_torch_are_chained(spec, monkeypatch, fault):
    backend = create_backend("torch", spec())
    monkeypatch.setattr(torch.nn.functional, "pixel_unshuffle", Mock(side_effect=fault))
    with pytest.raises(BackendError, match=r"1 frame.* of 16x18") as caught:
        backend.infer(batch(1, 16, 18))
    assert caught.value.__cause__ is fault


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 17, 33), (2, 48, 31), (1, 64, 96)])
def test_openvino_gives_what_torch_gives(openvino, spec, shape):
    ours = create_backend("torch", spec()).infer(batch(*shape))
    for got, expected in zip(openvino.infer(batch(*shape)), ours, strict=True):
        assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.usefixtures("no_gpu")
class TestWithoutGpu:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("torch", "'cuda'.*'cpu'"),
            ("openvino", "'cuda'.*'cpu'"),
            ("tensorrt", "'tensorrt' needs a GPU.*no CUDA GPU.*check the NVIDIA driver"),
        ],
    )
    def test_cuda_is_refused(self, name, said, spec):
        if name == "tensorrt":
            pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
        with pytest.raises(BackendError, match=said):
            create_backend(name, spec(device="cuda"))

    @pytest.mark.parametrize(
        ("settings", "has_gpu", "missing", "taken", "missed"),
        [
            ({"device": "auto"}, False, None, "openvino", []),
            ({"device": "cpu"}, False, "openvino", "torch", ["openvino: .*pip install openvino"]),
            ({"device": "auto"}, True, None, "openvino", ["tensorrt: ", "torch: .*check the NVIDIA driver"]),
            ({"device": "auto", "engine": "my.engine"}, False, None, "openvino", ["tensorrt: ", "torch: "]),
        ],
    )
    def test_auto_takes_the_fastest_and_says_what_is_missed(
        self, settings, has_gpu, missing, taken, missed, spec, monkeypatch, caplog, tmp_path
    ):
        monkeypatch.setattr(backends, "_GPU_NODES", (tmp_path,) if has_gpu else ())
        if missing:
            monkeypatch.setitem(sys.modules, missing, None)
            monkeypatch.delitem(sys.modules, f"sapnet.backends.{missing}", raising=False)
        with caplog.at_level(logging.INFO, logger="sapnet"):
            backend = create_backend("auto", spec(**settings))
        assert (backend.name, backend.device) == (taken, processor_name())
        said, *warnings = [record for record in caplog.records if record.name == "sapnet"]
        assert said.levelno == logging.INFO
        for warning, why in zip(warnings, missed, strict=True):
            assert warning.levelno == logging.WARNING
            assert re.search(f"a faster one is missing: {why}", warning.getMessage())

    def test_auto_does_not_leave_the_gpu_that_was_asked_for(self, spec):
        with pytest.raises(BackendError, match=r"no backend can run on device 'cuda:1'.*finds no CUDA GPU"):
            create_backend("auto", spec(device="cuda:1"))

    @pytest.mark.parametrize("stand_in", [False, True])
    def test_stands_in_for_an_engine_only_where_asked_to(self, stand_in, monkeypatch):
        made = {"tensorrt": create_backend("fake", BackendSpec()), "torch": create_backend("fake", BackendSpec())}
        monkeypatch.setattr(backends, "_create", lambda name, spec: made[name])
        backend = create_backend("auto", BackendSpec(device="cuda", stand_in=stand_in))
        assert isinstance(backend, backends.Standby) == stand_in
        assert (backend is made["tensorrt"]) != stand_in


class TestRunnersBySize:
    @pytest.fixture
    def sized(self, make_sized):
        return make_sized()

    def test_the_least_recently_used_is_closed_first(self, sized):
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

    def test_threads_share_what_one_of_them_makes(self, sized):
        sized.go.clear()
        with ThreadPoolExecutor(3) as threads:
            made = [threads.submit(sized.prepare, 1, 16, 16) for _ in range(3)]
            time.sleep(0.1)
            sized.go.set()
        assert [one.result() for one in made] == [None] * 3
        assert [runner.closed for runner in sized.made] == [False]

    def test_closed_it_keeps_nothing(self, sized):
        sized.prepare(1, 16, 16)
        sized.making.clear()
        sized.go.clear()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(sized.prepare, 1, 16, 18)
            assert sized.making.wait(30)
            sized.close()
            sized.go.set()
        assert [runner.closed for runner in sized.made] == [True, True]
        with pytest.raises(BackendError, match="closed"):
            sized.is_ready(1, 16, 16)
