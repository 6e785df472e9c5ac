"""The parts of the TensorRT backend that need no GPU: the proof, the share of a build, what is kept ready."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapnet.backends import BackendSpec
from sapnet.backends.base import EngineShape, Frames
from sapnet.backends.engines.runner import REQUIRED_DB, prove
from sapnet.backends.lru import LruCache
from sapnet.backends.torch import TorchBackend
from sapnet.errors import BackendError, UnfitEngineError
from sapnet.model.deploy import load_deploy_network

CPU = torch.device("cpu")
SHAPE = EngineShape(48, 64, 2)
SPEC = BackendSpec(device="cpu", precision="fp32", stages=1)


def prove_on_cpu(infer, precision: str = "fp32") -> float:
    return prove(infer, load_deploy_network(SPEC.weights, SPEC.stages), SHAPE, precision, CPU)


class TestProof:
    def test_the_same_arithmetic_agrees(self):
        assert prove_on_cpu(TorchBackend(SPEC).infer) >= REQUIRED_DB["fp32"]

    def test_what_is_a_little_off_is_refused_with_the_figure(self):
        backend = TorchBackend(SPEC)

        def off(frames: Frames) -> tuple[Frames, Frames]:
            derained, streaks = backend.infer(frames)
            return derained ^ 1, streaks

        with pytest.raises(
            BackendError, match=r"48x64, .* in fp32 agrees with float32 by 48\.1 dB only, 65 dB are needed"
        ):
            prove_on_cpu(off)
        assert prove_on_cpu(off, "bf16") == 48.1

    def test_every_frame_of_the_largest_batch_is_proven(self):
        backend = TorchBackend(SPEC)

        def repeats_the_first(frames: Frames) -> tuple[Frames, Frames]:
            return backend.infer(np.repeat(frames[:1], len(frames), axis=0))

        with pytest.raises(UnfitEngineError, match="agrees with float32 by"):
            prove_on_cpu(repeats_the_first)


class Ready:
    closed = False

    def close(self) -> None:
        self.closed = True


class TestLruCache:
    def test_the_least_recently_used_is_closed_first(self):
        cache, items = LruCache(2), {key: Ready() for key in "abc"}
        cache.put("a", items["a"])
        cache.put("b", items["b"])
        assert cache.get("a") is items["a"]
        cache.put("c", items["c"])
        assert [item.closed for item in items.values()] == [False, True, False]
        assert cache.get("b") is None
        assert cache.drop("a")
        assert not cache.drop("a")
        assert items["a"].closed

    def test_closed_it_keeps_nothing(self):
        cache, early, late = LruCache(2), Ready(), Ready()
        cache.put("a", early)
        cache.close()
        cache.put("b", late)
        assert early.closed
        assert late.closed
        with pytest.raises(BackendError, match="closed"):
            cache.get("a")
