"""Rules that import-linter and ruff cannot state: what starts without torch, what is never unpickled, one version."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import sapnet

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (["sapnet", "sapnet.images.messages", "sapnet.rain", "sapnet.streaks", "sapnet.backends.fake"], {"torch"}),
        # What the live node imports: it reads no files of pictures, videos or recordings, and writes no pages.
        (["sapnet.derainer", "sapnet.images.messages"], {"av", "PIL", "jinja2", "rosbags", "mcap", "ray"}),
    ],
)
def test_light_modules_load_no_heavy_library(modules: list[str], heavy: set[str]) -> None:
    check = f"import sys, {', '.join(modules)}; print(*{heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_torch_loads_weights_only() -> None:
    """Ruff's S301 finds the other ways to unpickle."""
    modules = [path for package in ("sapnet", "sapnet_ros", "training") for path in (ROOT / package).rglob("*.py")]
    texts = [text for path in modules if "torch.load" in (text := path.read_text())]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    calls = [ast.unparse(node) for node in nodes if isinstance(node, ast.Call)]
    loads = [call for call in calls if call.startswith("torch.load(")]
    assert loads
    assert all("weights_only=True" in call for call in loads)


def test_the_version_is_the_same_everywhere() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    newest = re.search(r"^(\d+\.\d+\.\d+) ", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert newest is not None
    assert manifest.findtext("version") == sapnet.__version__ == newest[1]
