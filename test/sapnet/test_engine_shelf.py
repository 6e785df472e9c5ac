"""Which engines are kept, removed and built again, with fake ones that are as fit as a test says."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from sapnet.backends import BackendSpec, BuildStatus
from sapnet.backends.engines.build import FAKE, BuildRequest
from sapnet.backends.engines.cache import EngineCache, Entry
from sapnet.backends.engines.key import EngineShape, Key, Pace, UnfitEngineError
from sapnet.backends.engines.shelf import EngineShelf
from sapnet.cli import main
from sapnet.errors import BackendError, EngineCacheError

SHAPE = EngineShape(48, 64)
SIZE = (1, 48, 64)
OPTIONS = {"build_s": 0.05, "mode": "identity"}


class Engine:
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
        return Engine()


def request(shape: EngineShape) -> BuildRequest:
    return BuildRequest("sapnet_fast", shape, FAKE, "fp32", options=OPTIONS)


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


def test_a_verdict_that_cannot_be_kept_holds_for_the_process(
    shelf, builds, tmp_path: Path, monkeypatch, caplog
) -> None:
    cache = EngineCache(tmp_path)

    def refuse(*args: object) -> None:
        raise EngineCacheError("read-only")

    monkeypatch.setattr(cache, "store", refuse)
    monkeypatch.setattr(cache, "remove", refuse)
    once = shelf(Loads(UnfitEngineError("unfit"), UnfitEngineError("unfit")), cache=cache)
    with caplog.at_level(logging.WARNING, logger="sapnet"), pytest.raises(UnfitEngineError):
        once.prepare(*SIZE)
    assert "each start will build" in caplog.text
    builds.clear()
    with pytest.raises(BackendError, match="not built again"):
        once.prepare(*SIZE)
    assert not builds


def status(share: float, seconds: float, moved: float) -> BuildStatus:
    return BuildStatus(48, 64, "building", share, seconds, moved)


def test_the_time_left_is_said_only_while_the_build_moves() -> None:
    assert status(0.25, 10, 10).seconds_left == 30
    assert status(0.25, 14, 10).seconds_left == 42
    assert status(0.25, 16, 10).seconds_left is None
    assert status(0.01, 1, 1).seconds_left is None
    assert str(status(0.2, 600, 15)) == "building the engine for 48x64: building, 600 s"


def test_pace() -> None:
    pace = Pace()
    assert [pace.note(*now) for now in ((0.0, 1), (0.2, 2), (0.2, 9), (0.4, 10), (0.4, 11))] == [0.0, 2, 2, 10, 10]
