"""Shared by the tests of recordings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sapnet.derainer import Derainer


@pytest.fixture(scope="session")
def derainer() -> Iterator[Derainer]:
    """Returns frames as they are, and no streaks."""
    with Derainer(backend="fake") as made:
        yield made
