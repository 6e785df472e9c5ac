"""Which of TensorRT and TensorRT-RTX is used, whatever is installed and broken."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest

from sapnet.backends.engines.build_onnx import RTX, TENSORRT
from sapnet.backends.engines.tensorrt import choose_library, require_capability
from sapnet.errors import BackendError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    modules = {name: ModuleType(name) for name in (TENSORRT, RTX)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules


def test_tensorrt_then_rtx(installed, monkeypatch, caplog) -> None:
    assert choose_library() is installed[TENSORRT]
    monkeypatch.setitem(sys.modules, TENSORRT, None)
    assert choose_library() is installed[RTX]
    assert not caplog.records
    monkeypatch.setitem(sys.modules, RTX, None)
    with pytest.raises(BackendError, match=r"python3-libnvinfer.*; tensorrt_rtx.*pip install tensorrt_rtx onnx"):
        choose_library()


def test_rtx_where_another_library_has_the_name_of_tensorrt(installed, monkeypatch, caplog) -> None:
    """As torch-tensorrt-rtx has it."""
    monkeypatch.setitem(sys.modules, TENSORRT, installed[RTX])
    with caplog.at_level(logging.WARNING, logger="sapnet"):
        assert choose_library() is installed[RTX]
    assert "tensorrt_rtx builds and runs the engines: got tensorrt_rtx under the name tensorrt" in caplog.text


def test_a_gpu_that_rtx_does_not_support_is_refused() -> None:
    require_capability((8, 9), "a GPU")
    with pytest.raises(BackendError, match=r"does not support the compute capability 9\.0 of a GPU, expected 7\.5"):
        require_capability((9, 0), "a GPU")
