"""Fixtures for tests with real nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from live import LocalNode, NodeProcess, Peer


@pytest.fixture
def start_node(peer: Peer) -> Iterator[Callable[..., LocalNode]]:
    """Starts derain_node in this process, on the fake backend and not lazy unless told otherwise.

    It must log no traceback.
    """
    started: list[LocalNode] = []

    def start(*ros_args: str, **params: Any) -> LocalNode:
        started.append(LocalNode(peer, *ros_args, **{"backend": "fake", "lazy": "false"} | params))
        return started[-1]

    yield start
    for node in started:
        node.close()
        assert "Traceback" not in node.log


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts derain_node processes, on the fake backend unless told otherwise.

    After the test they must end with code 0 and have logged no traceback.
    """
    started: list[NodeProcess] = []

    def start(*ros_args: str, **params: Any) -> NodeProcess:
        params = {"backend": "fake", "lazy": "false"} | params
        started.append(NodeProcess(*ros_args, log=tmp_path / f"node{len(started)}.log", **params))
        return started[-1]

    yield start
    for node in started:
        if node.process.poll() is None:
            assert node.stop() == 0
        assert "Traceback" not in node.log.read_text()
