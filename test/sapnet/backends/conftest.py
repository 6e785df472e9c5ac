"""A GPU that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from sapnet.backends import devices


def held() -> bool:
    """Whether another thread would wait for devices.PREPARING."""

    def must_wait() -> bool:
        if taken := devices.PREPARING.acquire(blocking=False):
            devices.PREPARING.release()
        return not taken

    with ThreadPoolExecutor(1) as another:
        return another.submit(must_wait).result()


@pytest.fixture
def preparing() -> Any:
    """``preparing()``: whether another thread would wait for devices.PREPARING."""
    return held


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, object]]:
    """Stands in for CUDA, on the CPU: the graphs that were captured, and the pools that they were given."""
    captures: list[tuple[Any, object]] = []
    empty = torch.empty

    @contextmanager
    def capture(graph: Any, pool: object, stream: Any, **how: Any) -> Iterator[None]:
        assert held(), "captured without the lock"
        captures.append((graph, pool))
        stream.synchronize.side_effect = AssertionError("waited while capturing")
        yield
        stream.synchronize.side_effect = None

    monkeypatch.setattr(torch, "empty", lambda *size, device=None, pin_memory=False, **how: empty(*size, **how))
    monkeypatch.setattr(torch.cuda, "Stream", Mock())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: MagicMock())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return captures
