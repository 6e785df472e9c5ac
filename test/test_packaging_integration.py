"""The package as users install it: with colcon and with pip."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"sapnet", "sapnet_ros"}
EXECUTABLES = {"sapnet", "derain_node", "bag_publisher", "bag_recorder"}
# Of which rosdep has no key, or one for pip alone.
WITHOUT_KEY = {"backports-zstd", "lz4", "mcap", "rosbags", "safetensors", "av", "apsw"}
KEYS = {"opencv-python-headless": "python3-opencv", "pillow": "python3-pil", "ruamel-yaml": "python3-ruamel.yaml"}
# The setup file is $0, so that everything after it is the command, whatever stands in it.
IN_WORKSPACE = ["bash", "-c", 'source "$0" && exec "$@"']


def package_files(folder: Path) -> set[str]:
    """Files of the packages below ``folder``, without caches and package metadata."""
    files = (path for package in PACKAGES for path in (folder / package).rglob("*") if path.is_file())
    return {str(file.relative_to(folder)) for file in files if "__pycache__" not in file.parts}


def site_packages(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3.*/site-packages"))


@pytest.fixture(scope="module")
def prefix(colcon_install: Path) -> Path:
    return colcon_install / "sapnet_ros"


@pytest.fixture(scope="module")
def wheel(copy_sources: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=copy_sources(), check=True)
    return next(out.glob("sapnet_ros-*.whl"))


def test_package_xml_names_every_dependency_that_has_a_rosdep_key() -> None:
    setup = ast.parse((ROOT / "setup.py").read_text())
    installed = next(node.value for node in ast.walk(setup) if getattr(node, "arg", "") == "install_requires")
    names = {canonicalize_name(Requirement(text).name) for text in ast.literal_eval(installed)}
    keys = {KEYS.get(name, f"python3-{name}") for name in names - WITHOUT_KEY}
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert keys <= {dependency.text for dependency in package.iter("exec_depend")}
    assert {license.get("file"): license.text for license in package.iter("license")} == {
        "LICENSE": "Apache-2.0",
        "sapnet/weights/LICENSE.sapnet": "MIT",
    }


def test_colcon_installs_both_packages_whole_and_nothing_else(prefix: Path) -> None:
    installed = package_files(site_packages(prefix))
    assert installed == package_files(ROOT)
    assert "sapnet/weights/sapnet_fast.safetensors" in installed
    assert {path.name for path in site_packages(prefix).iterdir() if path.suffix != ".egg-info"} == PACKAGES


def test_colcon_installs_what_ros_looks_for(prefix: Path) -> None:
    share = prefix / "share" / "sapnet_ros"
    assert (prefix / "share/ament_index/resource_index/packages/sapnet_ros").is_file()
    assert (share / "package.xml").read_text() == (ROOT / "package.xml").read_text()
    for folder in ("launch", "config"):
        sources = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
        assert {path.name for path in (share / folder).iterdir()} == sources


def test_colcon_installs_executables_for_the_environments_interpreter(prefix: Path) -> None:
    installed = {path.name: path for path in (prefix / "lib" / "sapnet_ros").iterdir()}
    assert set(installed) == EXECUTABLES
    for executable in installed.values():
        assert executable.read_text().splitlines()[0] == f"#!{sys.executable}"
        assert os.access(executable, os.X_OK)


def test_colcon_test_runs_the_tests(colcon_install: Path) -> None:
    workspace = colcon_install.parent
    colcon = [sys.executable, "-m", "colcon"]
    subprocess.run(
        [*colcon, "test", "--pytest-args", "test/sapnet_ros/test_params.py"], cwd=workspace, check=True, timeout=120
    )
    done = subprocess.run([*colcon, "test-result"], cwd=workspace, capture_output=True, text=True, check=True)
    tests = re.search(r"Summary: (\d+) tests, 0 errors, 0 failures", done.stdout)
    assert tests is not None, done.stdout
    assert int(tests[1]) > 1


@pytest.mark.parametrize("options", [(), ("--symlink-install",)], ids=["copied", "linked"])
def test_the_installed_node_runs(
    options: tuple[str, ...], colcon_install: Path, colcon_build: Callable[..., Path], tmp_path: Path
) -> None:
    live = pytest.importorskip("live", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
    install = colcon_build(*options) if options else colcon_install
    in_workspace = [*IN_WORKSPACE, str(install / "setup.bash")]
    where = [*in_workspace, sys.executable, "-c", "import sapnet_ros; print(sapnet_ros.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found).is_relative_to(install.parent)

    executable = install / "sapnet_ros/lib/sapnet_ros/derain_node"
    namespace = ["-r", "__ns:=/installed"]
    node = live.NodeProcess(*namespace, command=[*in_workspace, str(executable)], log=tmp_path / "log", backend="fake")
    peer = live.Peer()
    try:
        live.wait_for(lambda: peer.state("/installed/derain_node") == "active", "the installed node to become active")
        assert node.stop() == 0
    finally:
        peer.close()
        node.process.kill()


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name and ".data/" not in name} == package_files(ROOT)
    assert any(name.endswith("/data/share/sapnet_ros/launch/derain.launch.py") for name in names)


def test_the_wheel_declares_commands_extras_and_the_python_floor(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")).partition("/")[0]
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    assert set(entry_points["console_scripts"]) == EXECUTABLES
    assert "demo" in entry_points["sapnet.commands"]
    assert "Requires-Python: >=3.10\n" in metadata
    for pin in (ROOT / "requirements/ros-jazzy.txt").read_text().splitlines():
        name = pin.partition("==")[0]
        assert pin.startswith("#") or f'Requires-Dist: {name}=={pin.partition("==")[2]}; extra == "ros"\n' in metadata


def test_a_pip_install_runs(wheel: Path, tmp_path: Path) -> None:
    options = ["--no-deps", "--no-index", "--quiet", "--ignore-installed", "--prefix", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(site_packages(tmp_path))}
    command = [str(tmp_path / "bin/sapnet"), "info", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert str(tmp_path) in done.stdout  # where the shipped weights are
    assert (tmp_path / "bin/derain_node").is_file()
