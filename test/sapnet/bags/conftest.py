"""Shared by the tests of recordings."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext

import pytest

from sapnet.derainer import Derainer


@pytest.fixture(scope="session")
def derainer() -> Iterator[Derainer]:
    """Returns frames as they are, and no streaks."""
    with Derainer(backend="fake") as made:
        yield made


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts processes that have everything imported, so that a kill finds them at work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bag_worker", "sapnet.backends.fake"])
    return context
