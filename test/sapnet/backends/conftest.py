"""A GPU that is not there, and a backend whose runners are made when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from sapnet.backends import devices
from sapnet.backends.base import Backend, BackendSpec, EngineShape, Frames, Runner
from sapnet.errors import BackendError


class SizedRunner(Runner):
    """Hands frames back until it is closed."""

    def __init__(self, shape: EngineShape) -> None:
        self.shape = shape
        self.closed = False

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        return frames, frames[..., 0]

    def close(self) -> None:
        self.closed = True


class Sized(Backend):
    """Keeps two runners, each for up to three frames. ``go``: one may be made. ``errors``: raised instead."""

    precision, device, stages = "fp32", "a device", 1

    def __init__(self, name: str = "sized") -> None:
        super().__init__(BackendSpec(max_shapes=2, max_batch=3))
        self.name = name
        self.made: list[SizedRunner] = []
        self.errors: list[BackendError] = []
        self.making, self.go = threading.Event(), threading.Event()
        self.go.set()

    def _make(self, shape: EngineShape) -> SizedRunner:
        self.making.set()
        assert self.go.wait(30)
        if self.errors:
            raise self.errors.pop()
        self.made.append(SizedRunner(shape))
        return self.made[-1]


@pytest.fixture
def make_sized() -> type[Sized]:
    """``make_sized(name="sized")``."""
    return Sized


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
