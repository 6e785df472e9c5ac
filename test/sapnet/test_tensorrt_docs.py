"""docs/tensorrt.md: the messages that it explains are messages that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUOTED = re.findall(r"^\*\*`(.+?)`\.\*\*", (ROOT / "docs/tensorrt.md").read_text(), re.MULTILINE)


def source() -> str:
    """The package's source, with strings that go over several lines in one, and for placeholders what the page has."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "sapnet").rglob("*.py")))
    return re.sub(r"\{[^{}]*\}", "...", re.sub(r'"\s*\n\s*f?"', "", text))


def test_there_are_some() -> None:
    assert len(QUOTED) >= 6


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_is_quoted_is_said(quoted: str) -> None:
    said = source()
    for part in quoted.split("..."):
        assert part.strip() in said
