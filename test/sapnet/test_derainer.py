from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, TimeoutError

import numpy as np
import pytest
import torch

from sapnet import Derainer, load_weights
from sapnet.errors import BackendError, CheckpointError, ImageFormatError
from sapnet.model.weights import save_weights


@pytest.fixture
def derainer():
    with Derainer(backend="fake") as derainer:
        yield derainer


class TestCall:
    def test_equal_sizes_share_batches_of_up_to_eight_and_results_keep_the_order(self, make_frame):
        sizes = [(20, 30), (16, 16), (31, 17), *[(16, 16), (20, 30)] * 8]
        frames = [make_frame(*size, seed=seed) for seed, size in enumerate(sizes)]
        with Derainer(backend="fake", fake={"fail_every": 6}) as derainer:
            results = derainer(frames)
            assert all(np.array_equal(result.image, frame) for result, frame in zip(results, frames, strict=True))
            with pytest.raises(BackendError, match="inference 6"):
                derainer(frames[:1])

    @pytest.mark.parametrize("backend", ["torch", "openvino"])
    def test_a_network_that_overflows_is_an_error_not_a_black_frame(self, backend, make_frame, tiny_weights, tmp_path):
        network = load_weights(tiny_weights)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1e30)
        save_weights(network, tmp_path / "huge.safetensors", {})
        with (
            Derainer(tmp_path / "huge.safetensors", backend=backend, precision="fp32") as derainer,
            pytest.raises(BackendError, match=r"damaged result.*overflows"),
        ):
            derainer([make_frame(40, 50)])

    @pytest.mark.parametrize("least", [0, 9])
    def test_a_frame_of_black_and_white_alone_is_sound(self, least):
        frame = np.full((32, 48, 3), 255, np.uint8)
        frame[:, ::3] = least
        with Derainer(backend="fake") as derainer:
            assert np.array_equal(derainer([frame])[0].image, frame)

    @pytest.mark.parametrize("change", [lambda f: f[::2, ::-1], lambda f: f[..., ::-1], np.asfortranarray])
    def test_views_are_accepted(self, derainer, make_frame, change):
        frame = change(make_frame(40, 50))
        assert np.array_equal(derainer([frame])[0].image, frame)

    def test_results_own_their_memory(self, derainer, make_frame):
        frame = make_frame(16, 16)
        first, second = derainer([frame, frame])
        kept = second.image.copy()
        first.image[:] = 0
        frame[:] = 1
        assert np.array_equal(second.image, kept)
        assert first.image.base is None
        assert first.streaks.base is None

    def test_wrong_frames_are_refused_before_anything_runs(self, make_frame):
        derainer = Derainer(backend="fake", fake={"fail_every": 1})
        with pytest.raises(ImageFormatError, match="list of frames"):
            derainer(make_frame(16, 16))
        with pytest.raises(ImageFormatError, match="float64"):
            derainer([make_frame(16, 16), np.zeros((16, 16, 3))])

    @pytest.mark.parametrize(
        ("mode", "said"), [("nan", "float32.*expected uint8"), ("wrong_shape", r"\(1, 20, 29, 3\).*\(1, 20, 30, 3\)")]
    )
    def test_a_result_that_is_none_is_an_error(self, make_frame, mode, said):
        derainer = Derainer(backend="fake", fake={"mode": mode})
        with pytest.raises(BackendError, match=said):
            derainer([make_frame(20, 30)])


class TestSettings:
    @pytest.mark.parametrize("threshold", [-1, 256, 12.0, "12", True])
    def test_wrong_mask_threshold(self, threshold):
        with pytest.raises(ValueError, match=r"mask_threshold.*0 to 255"):
            Derainer(backend="fake", mask_threshold=threshold)

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ({"backend": "onnx"}, "'onnx'.*auto, tensorrt, torch, openvino, fake"),
            ({"device": "gpu"}, "'gpu'.*cuda:N"),
            ({"device": 0}, "device 0"),
            ({"device": torch.device("cpu")}, "device device"),
            ({"max_shapes": 0}, "max_shapes 0.*at least 1"),
            ({"threads": -1}, "threads -1.*at least 0"),
            ({"precision": "int8"}, "'int8'.*fp16"),
            ({"stages": -1}, "-1.*1 to 12"),
            ({"stages": 13}, "13"),
            ({"stages": True}, "True"),
        ],
    )
    def test_wrong_backend_settings(self, setting, said):
        with pytest.raises(BackendError, match=said):
            Derainer(**{"backend": "fake", **setting})

    def test_options_are_for_the_fake_backend_only(self):
        with pytest.raises(BackendError, match=r"latency_ms.*fake"):
            Derainer(backend="torch", fake={"latency_ms": 1})

    @pytest.mark.parametrize("backend", ["auto", "torch", "openvino"])
    def test_missing_weights(self, backend, tmp_path):
        with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
            Derainer(tmp_path / "absent.safetensors", backend=backend)


class TestLife:
    def test_closed(self, make_frame):
        with Derainer(backend="fake") as derainer:
            assert derainer([make_frame(16, 16)])
        with pytest.raises(BackendError, match="closed"):
            derainer([make_frame(16, 16)])

    @pytest.mark.parametrize("fake", [{"mode": "hang"}, {"latency_ms": 3_600_000}])
    def test_close_ends_an_inference_that_hangs(self, make_frame, fake):
        derainer = Derainer(backend="fake", fake=fake)
        with ThreadPoolExecutor(1) as another:
            hanging = another.submit(derainer, [make_frame(16, 16)])
            with pytest.raises(TimeoutError):
                hanging.result(0.1)
            derainer.close()
            with pytest.raises(BackendError, match="closed"):
                hanging.result(30)
