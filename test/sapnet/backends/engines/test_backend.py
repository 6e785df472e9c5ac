"""Which engines are kept, removed and built again, with fake ones that are as fit as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import eventually

from sapnet.backends import BackendSpec, BuildStatus
from sapnet.backends.base import EngineShape
from sapnet.backends.engines.backend import EngineBackend
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.backends.fake import FakeRequest
from sapnet.errors import BackendError, UnfitEngineError

SHAPE = EngineShape(48, 64)
SIZE = (1, 48, 64)


class Engine:
    def __init__(self, shape: EngineShape) -> None:
        self.shape = shape

    def close(self) -> None:
        """Nothing to free."""


class Backend(EngineBackend[Engine]):
    """Builds fake engines, those of another size than SIZE in a minute. errors: of the first loads."""

    def __init__(self, spec: BackendSpec, place: Key, errors: list[BackendError]) -> None:
        super().__init__(spec, place)
        self.errors = errors

    def _requests(self, shape: EngineShape) -> list[FakeRequest]:
        return [FakeRequest("sapnet_fast", shape, "fp32", 4, build_s=0.05 if shape == SHAPE else 60.0, fails=False)]

    def _load(self, entry: Entry, shape: EngineShape) -> Engine:
        if self.errors:
            raise self.errors.pop(0)
        return Engine(shape)


@pytest.fixture
def builds() -> list[BuildStatus]:
    return []


@pytest.fixture
def start(tmp_path: Path, builds: list[BuildStatus]) -> Callable[..., Backend]:
    """A new one each time, as after a start, on the same cache."""

    def start(*errors: BackendError, driver: str = "1") -> Backend:
        spec = BackendSpec(cache_dir=str(tmp_path), on_build=builds.append)
        return Backend(spec, {"gpu": "a", "driver": driver}, list(errors))

    return start


def kinds(folder: Path) -> list[str]:
    return sorted(str(entry.key["kind"]) for entry in EngineCache(folder).entries())


def test_an_engine_that_was_found_unfit_is_built_again(start, builds, tmp_path: Path) -> None:
    start().prepare(*SIZE)
    builds.clear()
    start(UnfitEngineError("agrees by 3 dB only")).prepare(*SIZE)
    assert builds
    assert kinds(tmp_path) == ["engine"]


def test_memory_that_runs_out_costs_no_engine(start, builds, tmp_path: Path) -> None:
    start().prepare(*SIZE)
    builds.clear()
    full = start(BackendError("CUDA out of memory"))
    with pytest.raises(BackendError, match="out of memory"):
        full.prepare(*SIZE)
    assert kinds(tmp_path) == ["engine"]
    full.prepare(*SIZE)
    assert not builds


def test_one_that_is_unfit_as_built_is_not_built_again_at_the_next_start(start, builds, tmp_path: Path) -> None:
    with pytest.raises(UnfitEngineError, match=r"^agrees by 3 dB only$"):
        start(UnfitEngineError("agrees by 3 dB only")).prepare(*SIZE)
    assert kinds(tmp_path) == ["verdict"]
    builds.clear()
    for _ in range(2):
        with pytest.raises(BackendError, match=r"agrees by 3 dB only; it is not built again.*--clear"):
            start().prepare(*SIZE)
    assert not builds
    start(driver="2").prepare(*SIZE)
    assert builds


def test_an_engine_that_is_there_does_not_wait_for_the_build_of_another(start, builds, tmp_path: Path) -> None:
    start().prepare(*SIZE)
    builds.clear()
    both, stopped = start(), threading.Event()

    def build_another() -> None:
        with pytest.raises(BackendError, match="was stopped"):
            both.prepare(1, 16, 16)
        stopped.set()

    threading.Thread(target=build_another, daemon=True).start()
    eventually(lambda: builds)
    both.prepare(*SIZE)
    assert both.is_ready(*SIZE)
    assert not stopped.is_set()
    both.close()
    assert stopped.wait(60)
