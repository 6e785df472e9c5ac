"""README and docs/: what they refer to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "sapnet/weights/README.md"])


def anchors(document: Path) -> set[str]:
    """Names of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", document.read_text()):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), f"{link} in {document.name}"
        assert not anchor or anchor in anchors(target), f"{link} in {document.name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_launch_and_config_files_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    launch_files = re.findall(r"ros2 launch sapnet_ros (\S+)", text)
    config_files = re.findall(r"(?<![\w/])config/([\w.]*\w)", text)
    assert all((ROOT / "launch" / name).is_file() for name in launch_files), launch_files
    assert all((ROOT / "config" / name).is_file() for name in config_files), config_files
