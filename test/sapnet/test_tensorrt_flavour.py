"""Which of TensorRT's flavours is used, whatever is installed and broken."""

from __future__ import annotations

import logging

import pytest

from sapnet.backends.engines import build_rtx as tensorrt_rtx
from sapnet.backends.engines import build_torch as tensorrt_torch
from sapnet.backends.engines import tensorrt
from sapnet.backends.engines.build import RTX, TENSORRT
from sapnet.errors import BackendError


class TestFlavour:
    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> set[str]:
        installed = {"tensorrt", "torch_tensorrt", "tensorrt_rtx"}
        monkeypatch.setattr(tensorrt, "find_spec", lambda name: name in installed or None)
        monkeypatch.setattr(tensorrt_torch, "load_library", lambda: "tensorrt")
        monkeypatch.setattr(tensorrt_rtx, "load_library", lambda: "tensorrt_rtx")
        return installed

    def test_tensorrt_is_preferred(self, installed) -> None:
        assert tensorrt.load_flavour() == (TENSORRT, "tensorrt")

    @pytest.mark.parametrize("missing", ["tensorrt", "torch_tensorrt"])
    def test_rtx_where_a_part_is_missing(self, installed, missing) -> None:
        installed.remove(missing)
        assert tensorrt.load_flavour() == (RTX, "tensorrt_rtx")

    def test_rtx_where_tensorrt_cannot_be_used(self, installed, monkeypatch, caplog) -> None:
        monkeypatch.setattr(tensorrt_torch, "load_library", self.refuse)
        with caplog.at_level(logging.WARNING, logger="sapnet"):
            assert tensorrt.load_flavour() == (RTX, "tensorrt_rtx")
        assert "TensorRT cannot: got torch-tensorrt 2.7.0" in caplog.text

    def test_broken_libraries_are_errors_of_the_backend(self, installed, monkeypatch) -> None:
        monkeypatch.setattr(tensorrt_torch, "load_library", self.refuse)
        monkeypatch.setattr(tensorrt_rtx, "load_library", self.refuse)
        with pytest.raises(BackendError, match=r"2\.7\.0; got torch-tensorrt 2\.7\.0"):
            tensorrt.load_flavour()

    def test_a_name_that_was_taken_counts_as_installed(self, installed, monkeypatch) -> None:
        def complain(name: str) -> None:
            raise ValueError(f"{name}.__spec__ is not set")

        monkeypatch.setattr(tensorrt, "find_spec", complain)
        assert tensorrt.load_flavour() == (TENSORRT, "tensorrt")

    @staticmethod
    def refuse() -> None:
        raise BackendError("got torch-tensorrt 2.7.0")


def test_the_library_itself_may_be_broken(monkeypatch) -> None:
    def broken() -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(tensorrt_torch, "require_supported", lambda: None)
    monkeypatch.setattr(tensorrt_torch, "_tensorrt", broken)
    with pytest.raises(BackendError, match=r"TensorRT cannot be loaded \(libnvinfer\.so\.10"):
        tensorrt_torch.load_library()
