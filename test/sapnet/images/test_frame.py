from __future__ import annotations

import numpy as np
import pytest
import torch

from message_builders import refused
from sapnet.images.frame import require_frame, to_tensor


class TestRequireFrame:
    @pytest.mark.parametrize(
        ("frame", "kind", "said"),
        [
            (np.zeros((20, 20), np.uint8), "encoding", r"\(20, 20\).*GRAY2BGR"),
            (np.zeros((20, 20, 4), np.uint8), "encoding", r"\(20, 20, 4\)"),
            (np.zeros((20, 20, 3), np.float32), "encoding", "float32"),
            (np.zeros((15, 20, 3), np.uint8), "size", "15x20.*16x16"),
            (np.zeros((20, 15, 3), np.uint8), "size", "20x15.*16x16"),
            ("frame.png", "encoding", "str"),
            (torch.zeros(20, 20, 3, dtype=torch.uint8), "encoding", "Tensor"),
        ],
    )
    def test_refuses_what_is_not_a_frame(self, frame, kind, said):
        with refused(kind, said):
            require_frame(frame)


class TestTensors:
    def test_layout_and_range(self):
        frame = np.zeros((16, 18, 3), np.uint8)
        frame[2, 5] = (255, 0, 51)  # B, G, R
        tensor = to_tensor(frame)
        assert tensor.shape == (1, 3, 16, 18)
        assert tensor.dtype == torch.float32
        assert tensor[0, :, 2, 5].tolist() == pytest.approx([0.2, 0.0, 1.0])
