"""Shared by all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a machine with a GPU that has what the tests marked gpu need, and no more
    pass
else:
    # How long an example takes says more of the machine's other work than of ours.
    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")

# The networks here are small, and two threads that wait for each other on a machine which has other work to do as well
# take many times as long as one. Before torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every run, and every worker of one (PYTEST_XDIST_WORKER is gw0, gw1, ...), talks in a ROS domain of its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_RUN = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
os.environ["ROS_DOMAIN_ID"] = str(20 + _RUN % 40 * 2 + _WORKER % 2)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = (".*", "__pycache__", "*.egg-info", "build", "install", "log", "demo_out", "datasets", "runs")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, import no other files: a machine with a GPU need not have what they import."""
    if config.option.markexpr == "gpu" and collection_path.name.startswith("test_"):
        return "pytest.mark.gpu" not in collection_path.read_text() or None
    return None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give tests with real nodes to one worker, one after another; share the other files out.

    Two nodes under test at a time would steal the processor from each other, and a file's fixtures are built once.
    """
    item.add_marker(pytest.mark.xdist_group("nodes" if _runs_nodes(item) else str(item.path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the nodes: they take longest."""
    items.sort(key=lambda item: not _runs_nodes(item))


def _runs_nodes(item: pytest.Item) -> bool:
    folder = item.path.relative_to(ROOT / "test").parts[0]
    return folder in ("sapnet_ros", "launch") and item.path.stem.endswith("_integration")


@pytest.fixture
def peer() -> Iterator[Any]:
    """A node of the test's own process."""
    from live import Peer

    peer = Peer()
    yield peer
    peer.close()


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
