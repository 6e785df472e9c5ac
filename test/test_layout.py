"""What design and packaging say of the sources: who imports whom, what stays small, which version this is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import sapnet

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sapnet", "sapnet_ros", "training")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted([*MODULES, *(ROOT / "launch").glob("*.py"), ROOT / "setup.py"])
MAX_LINES = 320  # about 300

ROS = re.compile(r"rclpy|(rcl|rmw|ament)_\w+|launch(_ros|_testing)?|cv_bridge|\w+_(msgs|srvs|interfaces)")
# From the top of sapnet to the bottom. A module imports from its own layer and those below it.
LAYERS = (
    ("cli", "commands", "__main__", "bags", "fleet", "report"),
    ("derainer",),
    ("backends",),
    ("model",),
)
WITHOUT_TORCH = (
    "sapnet",
    "sapnet.images.messages",
    "sapnet.rain",
    "sapnet.errors",
    "sapnet.streaks",
    "sapnet.backends.fake",
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)} imports relatively: name the package"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imports(path)}


def layer(module: str) -> int | None:
    """Index in LAYERS of a dotted module; None for one that stands in none of them."""
    package, *rest = module.split(".")
    return next((i for i, names in enumerate(LAYERS) if package == "sapnet" and rest and rest[0] in names), None)


def test_imports_run_one_way() -> None:
    for path in MODULES:
        package = path.relative_to(ROOT).parts[0]
        others = set(PACKAGES) - {package, "sapnet"}
        wrong = {root for root in roots(path) if root in others or (package != "sapnet_ros" and ROS.fullmatch(root))}
        assert not wrong, f"{name(path)} must not import {wrong}"


def test_inside_sapnet_imports_run_downwards() -> None:
    for path in (ROOT / "sapnet").rglob("*.py"):
        own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own is not None:
            above = {module for module in imports(path) if (other := layer(module)) is not None and other < own}
            assert not above, f"{name(path)} must not import {above}"


def test_names_of_ros_modules_are_told_from_others() -> None:
    named = ("rclpy", "sensor_msgs", "std_srvs", "rcl_interfaces", "launch_ros", "cv_bridge")
    assert all(ROS.fullmatch(module) for module in named)
    assert not any(ROS.fullmatch(module) for module in ("rosbags", "numpy", "sapnet", "torch", "messages"))


def test_the_light_parts_start_without_torch() -> None:
    check = f"import sys, {', '.join(WITHOUT_TORCH)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_pickles_are_read_as_weights_alone() -> None:
    """For which ruff has no rule."""
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        loads = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "torch.load"]
        assert all("weights_only=True" in load for load in loads), f"{name(path)}: {loads}"
        assert not roots(path) & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, name(path)


def test_files_stay_small() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {path: lines for path, lines in lengths.items() if lines > MAX_LINES}


def test_the_version_is_the_same_everywhere() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    newest = re.search(r"^(\d+\.\d+\.\d+) ", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert manifest.findtext("version") == sapnet.__version__
    assert newest is not None
    assert newest[1] == sapnet.__version__


def test_package_xml_names_every_ros_package_that_is_imported_and_no_pip_package() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    named = {element.text for element in manifest if element.tag.endswith("depend")}
    imported = {root for path in SOURCES for root in roots(path) if ROS.fullmatch(root)}
    assert imported <= named
    assert not [package for package in named - {"python3-numpy", "python3-opencv"} if not ROS.fullmatch(package or "")]
