"""The parts of the TensorRT backend that need no GPU: the proof, the share of a build, what is kept ready."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapnet.backends import BackendSpec
from sapnet.backends.base import EngineShape, Frames
from sapnet.backends.engines.build_onnx import PORTABLE, TARGETS, PhaseTree, own_target
from sapnet.backends.engines.key import UnfitEngineError
from sapnet.backends.engines.proof import REQUIRED_DB, prove, rainy_frame
from sapnet.backends.lru import LruCache
from sapnet.backends.network import load_deploy_network
from sapnet.backends.torch import create
from sapnet.errors import BackendError
from sapnet.streaks import rain_score

CPU = torch.device("cpu")
SHAPE = EngineShape(48, 64, 2)
SPEC = BackendSpec(device="cpu", precision="fp32", stages=1)


def prove_on_cpu(infer, precision: str = "fp32") -> float:
    return prove(infer, load_deploy_network(SPEC), SHAPE, precision, CPU)


class TestProof:
    def test_the_same_arithmetic_agrees(self):
        assert prove_on_cpu(create(SPEC).infer) >= REQUIRED_DB["fp32"]

    def test_what_is_a_little_off_is_refused_with_the_figure(self):
        backend = create(SPEC)

        def off(frames: Frames) -> tuple[Frames, Frames]:
            derained, streaks = backend.infer(frames)
            return derained ^ 1, streaks

        with pytest.raises(
            BackendError, match=r"48x64, .* in fp32 agrees with float32 by 48\.1 dB only, 65 dB are needed"
        ):
            prove_on_cpu(off)
        assert prove_on_cpu(off, "bf16") == 48.1

    def test_every_frame_of_the_largest_batch_is_proven(self):
        backend = create(SPEC)

        def repeats_the_first(frames: Frames) -> tuple[Frames, Frames]:
            return backend.infer(np.repeat(frames[:1], len(frames), axis=0))

        with pytest.raises(UnfitEngineError, match="agrees with float32 by"):
            prove_on_cpu(repeats_the_first)

    def test_streaks_are_proven_too(self):
        backend = create(SPEC)

        def off(frames: Frames) -> tuple[Frames, Frames]:
            derained, streaks = backend.infer(frames)
            return derained, streaks ^ 1

        with pytest.raises(UnfitEngineError, match=r"agrees with float32 by 48\.1 dB only"):
            prove_on_cpu(off)

    def test_the_frame_is_rainy_and_always_the_same(self):
        frame = rainy_frame(EngineShape(90, 161), 0)
        assert (frame.shape, frame.dtype) == ((90, 161, 3), np.uint8)
        assert np.array_equal(frame, rainy_frame(EngineShape(90, 161), 0))
        assert not np.array_equal(frame, rainy_frame(EngineShape(90, 161), 1))
        _, streaks = create(BackendSpec(device="cpu", precision="fp32")).infer(frame[None])
        assert rain_score(streaks[0]) > 0.05


class TestPhaseTree:
    def test_a_phase_inside_a_step_counts_as_a_part_of_it(self):
        tree = PhaseTree()
        assert tree.share == 0
        tree.start("building", None, 4)
        tree.step("building", 0)
        assert tree.share == 0.25
        tree.start("optimizing", "building", 2)
        tree.step("optimizing", 0)
        assert tree.share == 0.375
        tree.finish("optimizing")
        tree.step("building", 1)
        assert tree.share == 0.5
        tree.step("never started", 3)
        tree.finish("building")
        assert tree.share == 0


class TestTargets:
    @pytest.mark.parametrize(
        ("capability", "target"), [((8, 9), "sm89"), ((12, 0), "sm120"), ((7, 5), "sm75"), ((9, 0), "current")]
    )
    def test_a_gpu_builds_for_itself(self, capability, target):
        assert own_target(capability) == target
        assert target in TARGETS
        assert target != PORTABLE


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

    def test_what_is_replaced_is_closed(self):
        cache, old, new = LruCache(2), Ready(), Ready()
        cache.put("a", old)
        cache.put("a", new)
        assert (old.closed, new.closed) == (True, False)

    def test_closed_it_keeps_nothing(self):
        cache, early, late = LruCache(2), Ready(), Ready()
        cache.put("a", early)
        cache.close()
        cache.put("b", late)
        assert early.closed
        assert late.closed
        with pytest.raises(BackendError, match="closed"):
            cache.get("a")


def test_an_engine_for_no_frame_is_refused():
    with pytest.raises(BackendError, match="sides of at least 16"):
        EngineShape(8, 64)
