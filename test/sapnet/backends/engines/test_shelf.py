"""Which engines are kept, removed and built again, with fake ones that are as fit as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sapnet.backends import BackendSpec, BuildStatus
from sapnet.backends.base import EngineShape
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.backends.engines.shelf import EngineShelf
from sapnet.backends.fake import FakeRequest
from sapnet.cli import main
from sapnet.errors import BackendError, UnfitEngineError

SHAPE = EngineShape(48, 64)
SIZE = (1, 48, 64)


class Engine:
    def __init__(self, shape: EngineShape) -> None:
        self.shape = shape

    def close(self) -> None:
        """Nothing to free."""


class Loads:
    """Loads engines, or fails as often as there are errors."""

    def __init__(self, *errors: BackendError) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self, entry: Entry, shape: EngineShape) -> Engine:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return Engine(shape)


def request(shape: EngineShape, build_s: float = 0.05) -> FakeRequest:
    return FakeRequest("sapnet_fast", shape, "fp32", 4, build_s, fails=False)


@pytest.fixture
def builds() -> list[BuildStatus]:
    return []


@pytest.fixture
def shelf(tmp_path: Path, builds: list[BuildStatus]) -> Callable[..., EngineShelf[Engine]]:
    """A new one each time, as after a start, on the same cache."""

    def shelf(load: Loads, place: Key | None = None, cache: EngineCache | None = None) -> EngineShelf[Engine]:
        spec = BackendSpec(cache_dir=str(tmp_path), on_build=builds.append)
        where = place or {"gpu": "a", "driver": "1"}
        return EngineShelf(spec, cache or EngineCache(tmp_path), lambda shape: [request(shape)], load, where)

    return shelf


def kinds(folder: Path) -> list[str]:
    return sorted(str(entry.key["kind"]) for entry in EngineCache(folder).entries())


def test_an_engine_that_was_found_unfit_is_built_again(shelf, builds, tmp_path: Path) -> None:
    shelf(Loads()).prepare(*SIZE)
    builds.clear()
    load = Loads(UnfitEngineError("agrees by 3 dB only"))
    shelf(load).prepare(*SIZE)
    assert load.count == 2
    assert builds
    assert kinds(tmp_path) == ["engine"]


def test_memory_that_runs_out_costs_no_engine(shelf, builds, tmp_path: Path) -> None:
    shelf(Loads()).prepare(*SIZE)
    builds.clear()
    full = shelf(Loads(BackendError("CUDA out of memory")))
    with pytest.raises(BackendError, match="out of memory"):
        full.prepare(*SIZE)
    assert kinds(tmp_path) == ["engine"]
    full.prepare(*SIZE)
    assert not builds


def test_one_that_is_unfit_as_built_is_not_built_again_at_the_next_start(shelf, builds, tmp_path: Path) -> None:
    with pytest.raises(UnfitEngineError, match=r"^agrees by 3 dB only$"):
        shelf(Loads(UnfitEngineError("agrees by 3 dB only"))).prepare(*SIZE)
    assert kinds(tmp_path) == ["verdict"]
    builds.clear()
    for _ in range(2):
        with pytest.raises(BackendError, match=r"agrees by 3 dB only; it is not built again.*--clear"):
            shelf(Loads()).prepare(*SIZE)
    assert not builds
    shelf(Loads(), place={"gpu": "a", "driver": "2"}).prepare(*SIZE)
    assert builds


def test_a_verdict_is_forgotten_with_the_cache_and_listed(shelf, tmp_path: Path, capsys) -> None:
    with pytest.raises(UnfitEngineError):
        shelf(Loads(UnfitEngineError("agrees by 3 dB only"))).prepare(*SIZE)
    assert main(["compile", "--list", "--cache-dir", str(tmp_path)]) == 0
    assert "refused" in capsys.readouterr().out
    assert main(["compile", "--clear", "--json", "--cache-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": 1}
    shelf(Loads()).prepare(*SIZE)


def test_an_engine_that_is_there_does_not_wait_for_the_build_of_another(shelf, tmp_path: Path) -> None:
    shelf(Loads()).prepare(*SIZE)
    began, stopped = threading.Event(), threading.Event()

    def requests(shape: EngineShape) -> list[FakeRequest]:
        return [request(shape) if shape == SHAPE else request(shape, build_s=60.0)]

    spec = BackendSpec(on_build=lambda status: began.set())
    both = EngineShelf(spec, EngineCache(tmp_path), requests, Loads())

    def build_another() -> None:
        with pytest.raises(BackendError, match="was stopped"):
            both.prepare(1, 16, 16)
        stopped.set()

    threading.Thread(target=build_another, daemon=True).start()
    assert began.wait(60)
    assert both.prepare(*SIZE).shape == SHAPE
    assert not stopped.is_set()
    both.close()
    assert stopped.wait(60)
