"""The place of the TensorRT backend, which this version does not have yet."""

from __future__ import annotations

from sapnet.backends.base import Backend, BackendSpec
from sapnet.errors import BackendError


def create(spec: BackendSpec) -> Backend:
    """Always raises BackendError that says what to use instead."""
    raise BackendError(
        "backend 'tensorrt' is not in this version of sapnet; use backend 'torch' on an NVIDIA GPU, 'openvino' on "
        "a CPU, or 'auto'. A later version runs it on TensorRT-RTX: pip install torch-tensorrt-rtx"
    )
