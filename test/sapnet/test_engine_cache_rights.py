"""The engine cache on folders and files that must not be trusted or cannot be written."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sapnet.backends.engines.cache import EngineCache, Entry, read_entry, write_entry
from sapnet.errors import EngineCacheError

KEY = {"kind": "engine", "weights": "3f2a", "shape": [720, 1280]}
OTHER_KEY = {**KEY, "weights": "3f2b"}

SOMEBODY = 12345


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def entry(cache: EngineCache) -> Entry:
    return cache.store(KEY, b"data", {"build_s": 2.5})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def give_away(path: Path) -> None:
    try:
        os.chown(path, SOMEBODY, -1)
    except PermissionError:
        pytest.skip("only root can give a file to another user")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(cache: EngineCache, entry: Entry, mode: int) -> None:
    cache.folder.chmod(mode)
    for use in (lambda: cache.load(KEY), lambda: cache.store(KEY, b"", {}), cache.entries, cache.clear):
        with pytest.raises(EngineCacheError, match=rf"has mode {mode:04o}, .*: chmod -R go-w {cache.folder}$"):
            use()
    cache.folder.chmod(mode & ~0o022)
    assert cache.load(KEY) == entry


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(cache: EngineCache, entry: Entry, mode: int) -> None:
    entry.path.chmod(mode)
    for use in (lambda: cache.load(KEY), cache.entries, lambda: read_entry(entry.path)):
        with pytest.raises(EngineCacheError, match=rf"has mode {mode:04o}, .*: chmod go-w {entry.path}$"):
            use()
    entry.path.chmod(0o644)
    assert cache.load(KEY) == read_entry(entry.path) == entry


def test_another_users_folder_is_refused(cache: EngineCache, entry: Entry) -> None:
    give_away(cache.folder)
    for use in (lambda: cache.load(KEY), lambda: cache.store(KEY, b"", {}), cache.entries, cache.clear):
        with pytest.raises(
            EngineCacheError, match=rf"belongs to user {SOMEBODY}, .*: sudo chown -R {os.geteuid()} {cache.folder}$"
        ):
            use()


def test_another_users_file_is_refused(cache: EngineCache, entry: Entry) -> None:
    give_away(entry.path)
    for use in (lambda: cache.load(KEY), lambda: read_entry(entry.path)):
        with pytest.raises(
            EngineCacheError, match=rf"belongs to user {SOMEBODY}, .*: sudo chown {os.geteuid()} {entry.path}$"
        ):
            use()


def test_roots_file_is_taken_from_outside_but_not_in_the_cache(
    cache: EngineCache, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    if entry.path.stat().st_uid != 0:
        pytest.skip("only root can make root's files")
    give_away(cache.folder)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert read_entry(entry.path) == entry
    with pytest.raises(EngineCacheError, match=rf"belongs to user 0, .*: sudo chown {SOMEBODY} {entry.path}$"):
        cache.load(KEY)


def test_what_is_not_a_plain_file_is_refused(cache: EngineCache, entry: Entry, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    os.replace(entry.path, elsewhere)
    entry.path.symlink_to(elsewhere)
    for use in (lambda: cache.load(KEY), lambda: read_entry(entry.path)):
        with pytest.raises(EngineCacheError, match="is a symbolic link"):
            use()
    entry.path.unlink()
    os.mkfifo(entry.path, 0o600)
    with pytest.raises(EngineCacheError, match="is not a plain file"):
        cache.load(KEY)
    entry.path.unlink()
    entry.path.mkdir()
    with pytest.raises(EngineCacheError, match="Is a directory"):
        cache.load(KEY)


def test_a_store_replaces_a_link_and_leaves_what_it_points_to(cache: EngineCache, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    entry.path.unlink()
    entry.path.symlink_to(tmp_path / "elsewhere")
    cache.store(KEY, b"data", {})
    assert (loaded := cache.load(KEY)) is not None
    assert loaded.data == b"data"
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineCacheError, match="is a file, expected a folder"):
        EngineCache(tmp_path / "file").load(KEY)
    with pytest.raises(EngineCacheError, match="Not a directory"):
        EngineCache(tmp_path / "file" / "cache").store(KEY, b"", {})
    with pytest.raises(EngineCacheError, match="cannot be written"):
        write_entry(tmp_path / "file" / "carried.engine", KEY, b"", {})


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineCacheError, match="no such file; check the path"):
        read_entry(tmp_path / "missing.engine")


def test_a_full_disk_leaves_everything_as_it_was(small_disk: Path) -> None:
    cache = EngineCache(small_disk)
    first = cache.store(KEY, bytes(500_000), {})
    before = names(small_disk)
    for key in (KEY, OTHER_KEY):
        with pytest.raises(EngineCacheError, match=r"cannot be written \(No space left on device\); make space"):
            cache.store(key, bytes(800_000), {})
        assert names(small_disk) == before
    with pytest.raises(EngineCacheError, match="No space left on device"):
        write_entry(small_disk / "carried.engine", KEY, bytes(800_000), {})
    assert names(small_disk) == before
    assert cache.load(KEY) == first


def test_a_read_only_folder_serves_what_it_has(small_disk: Path) -> None:
    cache = EngineCache(small_disk)
    entry = cache.store(KEY, b"data", {})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    def build() -> tuple[bytes, dict[str, Any]]:
        pytest.fail("built what cannot be stored")

    assert cache.load(KEY) == entry
    for use in (lambda: cache.store(OTHER_KEY, b"", {}), lambda: cache.get_or_build(OTHER_KEY, build)):
        with pytest.raises(EngineCacheError, match=r"cannot be written \(Read-only file system\)"):
            use()
    with pytest.raises(EngineCacheError, match=r"cannot be removed \(Read-only file system\)"):
        cache.clear()
    assert stat.S_ISREG(entry.path.lstat().st_mode)
