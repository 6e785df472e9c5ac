"""What is asked of an NVIDIA driver, with stand-ins for its library."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sapnet.backends import devices


@pytest.mark.parametrize(("status", "said"), [(0, "CUDA 13010"), (999, "CUDA unknown"), (None, "CUDA unknown")])
def test_the_driver_is_asked_for_its_version(
    status: int | None, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def get_version(version: Any) -> int | None:
        version._obj.value = 13010
        return status

    def load(name: str) -> object:
        assert name == "libcuda.so.1"
        if status is None:
            raise OSError(f"{name}: cannot open shared object file")
        return SimpleNamespace(cuDriverGetVersion=get_version)

    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3\nmore\n")
    monkeypatch.setattr(devices, "_DRIVER_FILES", (tmp_path / "not there", release))
    monkeypatch.setattr(devices.ctypes, "CDLL", load)
    assert devices.driver_version() == f"{said}; # R36 (release), REVISION: 4.3"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
def test_a_real_driver_says_its_version() -> None:
    assert int(devices.driver_version().partition(";")[0].removeprefix("CUDA ")) >= 11000
