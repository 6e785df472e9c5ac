"""The engine cache: what is stored comes back, or is known to be damaged or not to be trusted."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from sapnet.backends.engines.cache import EngineCache, Entry, read_entry, write_entry
from sapnet.errors import EngineCacheError

ROOT = Path(__file__).resolve().parents[4]
KEY = {"kind": "engine", "shape": [48, 64, 1], "weights": "abc"}
DATA = bytes(range(256)) * 40

BUILD = """
import sys, time
from sapnet.backends.engines.cache import EngineCache

def build():
    print("built", flush=True)
    time.sleep(float(sys.argv[2]))
    return b"engine"

EngineCache(sys.argv[1]).get_or_build({"kind": "engine"}, build)
"""


def builder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def entry(cache: EngineCache) -> Entry:
    return cache.store(KEY, DATA, {"seconds": 1.5})


def test_what_is_stored_is_loaded(cache: EngineCache) -> None:
    assert cache.load(KEY) is None
    cache.store(KEY, b"an earlier engine", {})
    cache.store(KEY, DATA, {"seconds": 1.5})
    loaded = cache.load(dict(reversed(KEY.items())))
    assert loaded is not None
    assert (loaded.key, loaded.about, loaded.data) == (KEY, {"seconds": 1.5}, DATA)
    assert cache.load({**KEY, "weights": "abd"}) is None
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert loaded.path.stat().st_mode & 0o777 == 0o600
    assert list(cache.folder.iterdir()) == [loaded.path]


def test_processes_build_a_key_once_and_a_killed_builder_frees_it(tmp_path: Path) -> None:
    first = builder(tmp_path, 60)
    assert first.stdout is not None
    assert first.stdout.readline() == "built\n"
    others = [builder(tmp_path, 0) for _ in range(2)]
    first.kill()
    first.wait()
    assert sorted(other.communicate(timeout=60)[0] for other in others) == ["", "built\n"]


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "another key's"])
def test_damaged_entries_are_removed_and_said(
    damage: str, cache: EngineCache, entry: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    whole = bytearray(entry.path.read_bytes())
    if damage == "flipped bit":
        whole[-100] ^= 1
    other = cache.store({**KEY, "weights": "other"}, DATA, {}).path.read_bytes()
    content = {"cut": whole[:-1], "flipped bit": whole, "empty": b"", "another key's": other}
    entry.path.write_bytes(bytes(content[damage]))
    assert cache.load(KEY) is None
    assert "is damaged" in caplog.text
    assert not entry.path.exists()


@pytest.mark.parametrize("place", ["folder", "file"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_what_others_can_write_is_refused(place: str, mode: int, cache: EngineCache, entry: Entry) -> None:
    lock = cache.folder / ".somebody.lock"
    lock.touch()
    (cache.folder if place == "folder" else entry.path).chmod(mode)
    uses = [lambda: cache.load(KEY), *([cache.entries, cache.clear] if place == "folder" else [])]
    for use in uses:
        with pytest.raises(EngineCacheError, match=rf"has mode {mode:04o}, expected .* sudo chown .* && chmod -R go-w"):
            use()
    assert set(cache.folder.iterdir()) == {entry.path, lock}


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which takes root")
def test_what_belongs_to_others_is_refused(cache: EngineCache, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(entry.path, 4321, 4321)
    for load in (lambda: cache.load(KEY), lambda: read_entry(entry.path)):
        with pytest.raises(EngineCacheError, match="belongs to user 4321"):
            load()
    # A file of root's is taken where a user names it, but not in the user's own cache.
    os.chown(entry.path, 0, 0)
    os.chown(cache.folder, 4321, 4321)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert read_entry(entry.path).data == DATA
    with pytest.raises(EngineCacheError, match="belongs to user 0"):
        cache.load(KEY)


def test_links_are_refused(cache: EngineCache, entry: Entry, tmp_path: Path) -> None:
    target = entry.path.rename(tmp_path / "elsewhere")
    entry.path.symlink_to(target)
    with pytest.raises(EngineCacheError, match="is not a plain file"):
        cache.load(KEY)
    cache.store(KEY, b"new", {})
    assert read_entry(target).data == DATA


def test_nobody_is_told_to_change_the_rights_of_what_is_no_file(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)  # as /tmp
    for path in (tmp_path, os.devnull):
        with pytest.raises(EngineCacheError, match="is not a plain file"):
            read_entry(path)


def test_the_least_recently_used_are_removed_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=3 * 10_500)
    for number in range(3):
        path = cache.store({"kind": "engine", "number": number}, DATA, {}).path
        os.utime(path, (number, number))
    assert cache.load({"kind": "engine", "number": 0}) is not None  # which counts as use
    cache.store({"kind": "engine", "number": 3}, DATA, {})
    assert [entry.key["number"] for entry in cache.entries()] == [3, 0, 2]
    cache.store({"kind": "engine", "number": 4}, DATA * 9, {})
    assert [entry.key["number"] for entry in cache.entries()] == [4]  # alone above the bound, and kept


def test_an_entry_can_be_carried_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "my.engine"
    written = write_entry(path, KEY, DATA, {"seconds": 2})
    assert read_entry(path) == written == Entry(KEY, {"seconds": 2}, sha256(DATA).hexdigest(), path, DATA)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineCacheError, match=r"my\.engine cannot be used: .*; copy it again"):
        read_entry(path)
    with pytest.raises(EngineCacheError, match="no such file"):
        read_entry(tmp_path / "none")
