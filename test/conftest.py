"""Shared by all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The networks here are small, and two threads that wait for each other on a machine which has other work to do as well
# take many times as long as one. Before torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = (".*", "__pycache__", "*.egg-info", "build", "install", "log", "demo_out", "datasets", "runs")

# How long an example takes says more of the machine's other work than of ours.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data folder; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SAPNET_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"development data not found at {folder}; set SAPNET_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def copy_sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes copies of the repository's sources, so that a build leaves nothing here. The path has a space."""

    def copy() -> Path:
        folder = tmp_path_factory.mktemp("a workspace") / "sapnet ros"
        return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_SOURCES)))

    return copy


@pytest.fixture(scope="session")
def colcon_build(copy_sources: Callable[[], Path]) -> Callable[..., Path]:
    """Builds a copy of the repository with colcon; returns the install folder."""
    pytest.importorskip("colcon_core", reason="needs colcon: pip install -r requirements/dev.txt")
    if " " in sys.executable:
        pytest.skip(f"colcon's setup files do not quote the interpreter's path, and it has a space: {sys.executable}")

    def build(*options: str) -> Path:
        workspace = copy_sources()
        command = [sys.executable, "-m", "colcon", "build", *options]
        done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return workspace / "install"

    return build


@pytest.fixture(scope="session")
def colcon_install(colcon_build: Callable[..., Path]) -> Path:
    """The install folder of a plain colcon build."""
    return colcon_build()
