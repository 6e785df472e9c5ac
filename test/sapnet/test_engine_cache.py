"""The engine cache: what goes in comes out, is built once, and stays within its bound."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sapnet.backends.engines.cache import EngineCache, Entry, read_entry, write_entry
from sapnet.errors import EngineCacheError

KEY = {"kind": "engine", "weights": "3f2a", "shape": [720, 1280, 4], "precision": "fp16", "tf32": False}
BUILDER = """
import sys, time
from pathlib import Path
from sapnet.backends.engines.cache import EngineCache

folder, builds, go = map(Path, sys.argv[1:])

def build():
    with builds.open("a") as file:
        file.write("built\\n")
    time.sleep(0.3)
    return b"an engine", {}

print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
print(EngineCache(folder).get_or_build({"kind": "engine"}, build).data.decode())
"""

Store = Callable[[str, int], Entry]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def key_of(name: str) -> dict[str, Any]:
    return {"kind": "engine", "name": name}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse_to_build() -> tuple[bytes, dict[str, Any]]:
    pytest.fail("built, though there is an entry")


def test_what_is_stored_is_loaded(cache: EngineCache) -> None:
    assert cache.load(KEY) is None
    assert not cache.folder.exists()
    stored = cache.store(KEY, b"\x00engine\xff" * 1000, {"build_s": 12.5, "agreement_db": float("inf")})
    assert cache.load(KEY) == stored
    assert (stored.key, stored.data) == (KEY, b"\x00engine\xff" * 1000)
    assert stored.about == {"build_s": 12.5, "agreement_db": float("inf")}
    assert names(cache.folder) == [stored.path.name]
    assert stored.path.name.startswith("engine-")
    assert EngineCache(str(cache.folder)).load(dict(reversed(KEY.items()))) == stored


def test_a_stored_entry_takes_the_place_of_an_earlier_one(cache: EngineCache) -> None:
    cache.store(KEY, b"old and longer", {})
    cache.store(KEY, b"", {"n": 2})
    assert (entry := cache.load(KEY)) is not None
    assert (entry.data, entry.about) == (b"", {"n": 2})
    assert len(names(cache.folder)) == 1


def test_folder_and_files_are_for_the_user_alone(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "a" / "b")
    entry = cache.store(KEY, b"data", {})
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "onnx"},
        {"weights": "3f2b"},
        {"shape": [720, 1280, 1]},
        {"shape": [1280, 720, 4]},
        {"precision": "bf16"},
        {"precision": None},
        {"tf32": 0},
        {"driver": "580.1"},
    ],
)
def test_keys_that_differ_in_one_value_are_apart(cache: EngineCache, change: dict[str, Any]) -> None:
    cache.store(KEY, b"one", {})
    assert cache.load({**KEY, **change}) is None
    cache.store({**KEY, **change}, b"other", {})
    first, second = cache.load(KEY), cache.load({**KEY, **change})
    assert first is not None
    assert second is not None
    assert (first.data, second.data) == (b"one", b"other")


@pytest.mark.parametrize("kind", [None, "", 3, "../engine", "an engine"])
def test_a_key_needs_a_kind(cache: EngineCache, kind: object) -> None:
    with pytest.raises(EngineCacheError, match="got a key with kind"):
        cache.store({"kind": kind}, b"data", {})


def test_what_json_does_not_hold_is_refused_and_nothing_written(cache: EngineCache) -> None:
    with pytest.raises(EngineCacheError, match="expected plain JSON values"):
        cache.load({"kind": "engine", "path": Path("x")})
    with pytest.raises(EngineCacheError, match="expected plain JSON values"):
        cache.store(KEY, b"data", {"size": b"1"})
    with pytest.raises(EngineCacheError, match=r"key and about take \d+ bytes, expected at most 1048576"):
        cache.store(KEY, b"data", {"log": "x" * 2**20})
    assert names(cache.folder) == []


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert EngineCache().folder == tmp_path / "xdg/sapnet/engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert EngineCache().folder == tmp_path / ".cache/sapnet/engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert EngineCache().folder == tmp_path / ".cache/sapnet/engines"
    assert EngineCache("~/mine").folder == tmp_path / "mine"


def test_get_or_build_builds_what_is_missing_and_only_that(cache: EngineCache) -> None:
    built = cache.get_or_build(KEY, lambda: (b"data", {"build_s": 1}))
    assert cache.get_or_build(KEY, refuse_to_build) == built
    assert names(cache.folder) == [built.path.name], "a lock file stayed"


def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(cache: EngineCache) -> None:
    def fail() -> tuple[bytes, dict[str, Any]]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.get_or_build(KEY, fail)
    assert names(cache.folder) == []
    assert cache.get_or_build(KEY, lambda: (b"data", {})).data == b"data"


def test_threads_build_a_key_once_and_those_that_wait_are_told(cache: EngineCache) -> None:
    builds: list[int] = []
    waiting = threading.Semaphore(0)

    def build() -> tuple[bytes, dict[str, Any]]:
        builds.append(1)
        for _ in range(3):
            assert waiting.acquire(timeout=60)
        return b"data", {}

    with ThreadPoolExecutor(4) as pool:
        entries = [pool.submit(cache.get_or_build, KEY, build, 60, waiting.release) for _ in range(4)]
        assert [entry.result().data for entry in entries] == [b"data"] * 4
    assert len(builds) == 1
    assert len(names(cache.folder)) == 1


def test_processes_build_a_key_once(tmp_path: Path) -> None:
    builds, go = tmp_path / "builds", tmp_path / "go"
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "cache"), str(builds), str(go)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    go.touch()
    assert [child.communicate(timeout=120)[0] for child in children] == ["an engine\n"] * 3
    assert builds.read_text() == "built\n"


def test_waiting_for_a_build_has_an_end(cache: EngineCache) -> None:
    path = cache.store(KEY, b"", {}).path
    path.unlink()
    lock = path.with_name(f".{path.name}.lock")
    calls = []
    with (
        FileLock(lock),
        pytest.raises(
            EngineCacheError, match=rf"\.{path.name}\.lock was held for more than 0\.2 s.*fuser -v"
        ) as caught,
    ):
        cache.get_or_build(KEY, refuse_to_build, 0.2, lambda: calls.append(1))
    assert str(lock) in str(caught.value)
    assert calls == [1]
    assert cache.get_or_build(KEY, lambda: (b"data", {})).data == b"data"
    assert not lock.exists()


@pytest.fixture
def aged(tmp_path: Path) -> Callable[[int], EngineCache]:
    """A cache of that many bytes with a (oldest), b and c, of a little more than 1,000 bytes each."""

    def make(max_bytes: int) -> EngineCache:
        cache = EngineCache(tmp_path / "cache", max_bytes)
        for age, name in enumerate("cba", start=1):
            entry = EngineCache(cache.folder).store(key_of(name), bytes(1000), {})
            os.utime(entry.path, (2e9 - age, 2e9 - age))
        return cache

    return make


def kept(cache: EngineCache) -> set[str]:
    return {entry.key["name"] for entry in cache.entries()}


def test_the_least_recently_used_go_first(aged: Callable[[int], EngineCache]) -> None:
    cache = aged(4000)
    newest = cache.store(key_of("d"), bytes(1000), {})
    os.utime(newest.path, (2e9, 2e9))
    assert kept(cache) == {"b", "c", "d"}
    cache.store(key_of("e"), bytes(2000), {})
    assert kept(cache) == {"d", "e"}


def test_a_load_counts_as_use(aged: Callable[[int], EngineCache]) -> None:
    cache = aged(4000)
    for entry in cache.entries():
        os.utime(entry.path, (entry.used - 1e9, entry.used - 1e9))  # into the past
    assert cache.load(key_of("a")) is not None
    cache.store(key_of("d"), bytes(1000), {})
    assert kept(cache) == {"a", "c", "d"}


def test_the_newest_stays_even_where_the_clock_runs_back(aged: Callable[[int], EngineCache]) -> None:
    cache = aged(4000)  # of which all are from the future
    cache.store(key_of("d"), bytes(1000), {})
    assert kept(cache) == {"b", "c", "d"}


def test_an_entry_larger_than_the_bound_is_kept_alone(aged: Callable[[int], EngineCache]) -> None:
    cache = aged(4000)
    cache.store(key_of("d"), bytes(9000), {})
    assert kept(cache) == {"d"}
    cache.store(key_of("e"), bytes(10), {})
    assert kept(cache) == {"e"}


def test_entries_are_listed_without_their_data(cache: EngineCache) -> None:
    assert cache.entries() == []
    paths = [cache.store(key_of(name), bytes(5000), {"build_s": 3}).path for name in "ab"]
    os.utime(paths[0], (2e9, 2e9))
    (cache.folder / "notes.txt").write_text("not an entry")
    first, second = cache.entries()
    assert (first.key, first.about, first.path, first.used) == (key_of("a"), {"build_s": 3}, paths[0], 2e9)
    assert second.key == key_of("b")
    assert first.size == paths[0].stat().st_size


def test_clear_removes_what_is_the_caches_and_says_how_much(cache: EngineCache) -> None:
    assert cache.clear() == 0
    path = cache.store(key_of("a"), b"data", {}).path
    cache.store(key_of("b"), b"data", {}).path.write_bytes(b"damaged")
    path.with_name(f".{path.name}.0123abcd.tmp").write_bytes(b"left")
    path.with_name(f".{path.name}.lock").touch()
    (cache.folder / "notes.txt").touch()
    assert cache.clear() == 2
    assert names(cache.folder) == ["notes.txt"]


def test_a_lock_that_is_held_outlives_clear(cache: EngineCache) -> None:
    path = cache.store(KEY, b"data", {}).path
    with FileLock(lock := path.with_name(f".{path.name}.lock")):
        cache.clear()
        assert lock.exists()


def test_an_entry_can_be_carried_in_a_file(tmp_path: Path, cache: EngineCache) -> None:
    path = tmp_path / "new folder" / "vehicle.engine"
    written = write_entry(path, KEY, b"data", {"build_s": 2})
    assert read_entry(str(path)) == written == Entry(KEY, {"build_s": 2}, b"data", path)
    assert names(path.parent) == ["vehicle.engine"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o700 == 0o600
    write_entry(path, KEY, b"newer", {})
    assert read_entry(path).data == b"newer"
    assert cache.load(KEY) is None
