"""Shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data folder; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SAPNET_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"development data not found at {folder}; set SAPNET_DATA to its folder")
    return folder
