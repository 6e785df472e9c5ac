"""Links of the files that the documentation's own build does not see; it checks all the others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "sapnet/weights/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    links = re.findall(r"\]\((?!https?://)([^)#\s]+)", document.read_text())
    assert links
    assert not [link for link in links if not (document.parent / link).exists()]
