"""Which of TensorRT's flavours and builders is used, whatever is installed and broken."""

from __future__ import annotations

import logging
import sys

import pytest

from sapnet.backends.engines import build_onnx, build_torch, tensorrt
from sapnet.backends.engines.build_onnx import RTX, TENSORRT
from sapnet.errors import BackendError

TORCH, ONNX = build_torch.__name__, build_onnx.__name__


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    installed = {"tensorrt", "torch_tensorrt", "tensorrt_rtx"}
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(build_torch, "load_library", lambda: "tensorrt")
    monkeypatch.setattr(build_onnx, "load_library", lambda flavour: build_onnx.FLAVOURS[flavour].module)
    return installed


@pytest.mark.parametrize(
    ("missing", "flavour", "module", "builder"),
    [
        ("", TENSORRT, "tensorrt", TORCH),
        ("torch_tensorrt", TENSORRT, "tensorrt", ONNX),
        ("tensorrt", RTX, "tensorrt_rtx", ONNX),
    ],
)
def test_chooses_by_what_is_installed(installed, missing, flavour, module, builder) -> None:
    installed.discard(missing)
    assert tensorrt.load_library() == tensorrt.Library(flavour, module, builder)


def refuse() -> None:
    raise BackendError("got torch-tensorrt 2.7.0")


def test_onnx_where_torch_tensorrt_cannot_be_used_then_rtx(installed, monkeypatch, caplog) -> None:
    monkeypatch.setattr(build_torch, "load_library", refuse)
    with caplog.at_level(logging.WARNING, logger="sapnet"):
        assert tensorrt.load_library() == tensorrt.Library(TENSORRT, "tensorrt", ONNX)
    assert "got torch-tensorrt 2.7.0" in caplog.text
    # torch-tensorrt-rtx has the real TensorRT-RTX answer to the name tensorrt.
    monkeypatch.undo()
    rtx = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    assert tensorrt.load_library() == tensorrt.Library(RTX, rtx, ONNX)


@pytest.mark.parametrize(
    ("capability", "supported"), [((8, 9), True), ((12, 0), True), ((9, 0), False), ((10, 0), False)]
)
def test_a_gpu_that_rtx_does_not_support_is_refused(capability, supported) -> None:
    build_onnx.require_capability(TENSORRT, capability, "a GPU")
    if supported:
        build_onnx.require_capability(RTX, capability, "a GPU")
        return
    with pytest.raises(BackendError, match=r"does not support the compute capability .* of a GPU, expected 7\.5"):
        build_onnx.require_capability(RTX, capability, "a GPU")
