"""What is asked of an NVIDIA driver, with stand-ins for its library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sapnet.backends import devices as gpu


def library(status: int) -> object:
    def get_version(version: Any) -> int:
        version._obj.value = 13010
        return status

    return SimpleNamespace(cuDriverGetVersion=get_version)


def missing() -> object:
    raise OSError("libcuda.so.1: cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda: library(0), "CUDA 13010"),
        (lambda: library(999), "CUDA unknown"),
        (SimpleNamespace, "CUDA unknown"),
        (missing, "CUDA unknown"),
    ],
)
def test_the_driver_is_asked_for_its_version(
    load: Callable[[], object], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3\nmore\n")
    names: list[str] = []
    monkeypatch.setattr(gpu, "_DRIVER_FILES", (tmp_path / "not there", release))
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: names.append(name) or load())
    assert gpu.driver_version() == f"{said}; # R36 (release), REVISION: 4.3"
    assert names == ["libcuda.so.1"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
def test_a_real_driver_says_its_version() -> None:
    assert int(gpu.driver_version().partition(";")[0].removeprefix("CUDA ")) >= 11000
