"""The engine cache: engines, exported models and compiled kernels on disk, built once.

An entry is a safetensors file: the data as one tensor of bytes, and in the metadata its key, what is worth knowing
about it, and the checksum. An engine is code, so an entry is read only where nobody but the user could have written it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sapnet.errors import EngineCacheError, SapnetError
from sapnet.files import replacing

_NAME = "*-" + "[0-9a-f]" * 64 + ".entry"
_DATA, _ABOUT = "data", "about"
_ROOT = 0

# Plain JSON values, compared as a whole.
Key = Mapping[str, Any]

log = logging.getLogger("sapnet")


@dataclass(frozen=True)
class Entry:
    """An entry of the cache.

    about: worth knowing, but not part of the identity (build seconds, agreement in dB). sha256: of the data.
    data: left out in lists.
    """

    key: Key
    about: Mapping[str, Any]
    sha256: str
    path: Path
    data: bytes = b""


class EngineCache:
    """Entries by their keys: plain JSON values, of which ``kind`` says what the data is, such as ``engine``.

    folder: "" means ``sapnet/engines`` in the user's cache folder; made on the first store, for the user alone.
    max_bytes: above it, the least recently used entries are removed.
    Reading, listing and clearing raise EngineCacheError if the folder or a file belongs to somebody else or can be
    written by others; writing raises SapnetError where that is impossible.
    """

    def __init__(self, folder: str | Path = "", max_bytes: int = 8 * 2**30) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.folder = Path(folder).expanduser() if folder else Path(base, "sapnet", "engines")
        self._max_bytes = max_bytes

    def load(self, key: Key) -> Entry | None:
        """The entry of ``key``, or None. A damaged one is removed, with one line in the log."""
        path = self._path(key)
        try:
            entry = _read(path)
            if _to_json(entry.key) != _to_json(key):
                raise ValueError("it holds another key than its name says")
        except FileNotFoundError:
            return None
        except ValueError as err:
            log.warning("%s is damaged (%s): removed, and built again when it is needed", path, err)
            with suppress(EngineCacheError):  # a folder that cannot be written serves its sound entries
                _unlink(path)
            return None
        with suppress(OSError):
            os.utime(path)  # records the use: few file systems keep the time of access
        return entry

    def store(self, key: Key, data: bytes, about: Mapping[str, Any]) -> Entry:
        """Keep ``data`` under ``key``, in place of an earlier entry, which stays if that fails."""
        self._make_folder()
        entry = write_entry(self._path(key), key, data, about, 0o600)
        total = 0
        for path, size in self._files():  # the last used, and so the new one, first
            total += size
            if total > self._max_bytes and path != entry.path:
                _unlink(path)
        return entry

    def try_store(self, key: Key, data: bytes, about: Mapping[str, Any]) -> None:
        """``store``, but log a warning where the folder cannot be written: for what can be made again."""
        try:
            self.store(key, data, about)
        except SapnetError as err:
            log.warning("the engine's %s cannot be kept and is made anew at each start: %s", key["kind"], err)

    def get_or_build(self, key: Key, build: Callable[[], bytes]) -> Entry:
        """The entry of ``key``, built if there is none: once, however many threads and processes ask for it.

        build: returns the data. What it raises is passed on, and the next one in the queue builds.
        """
        if (entry := self.load(key)) is not None:
            return entry
        self._make_folder()
        path = self._path(key)
        with _using(path):
            lock = FileLock(path.with_name(f".{path.name}.lock"), mode=0o600, poll_interval=0.1).acquire()
        with lock:
            if (entry := self.load(key)) is not None:
                return entry
            began = time.monotonic()
            data = build()
            return self.store(key, data, {"seconds": round(time.monotonic() - began, 1)})

    def remove(self, key: Key) -> None:
        """Remove the entry of ``key``, if there is one."""
        _unlink(self._path(key))

    def entries(self) -> list[Entry]:
        """All entries with sound headers, the last used first; their data is left out and not checked."""
        listed = []
        for path, _ in self._files():
            with suppress(FileNotFoundError, ValueError):
                listed.append(_read(path, with_data=False))
        return listed

    def clear(self) -> int:
        """Remove all entries, damaged ones, locks and what killed writers left too. Returns the number of entries."""
        paths = [path for path, _ in self._files()]
        for path in (*paths, *self.folder.glob(".*.tmp.entry"), *self.folder.glob(".*.lock")):
            _unlink(path)
        return len(paths)

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key['kind']}-{_sha256(_to_json(key).encode())}.entry"

    def _files(self) -> list[tuple[Path, int]]:
        """The files of entries and their sizes, the last used first."""
        with _using(self.folder), suppress(FileNotFoundError):
            _check_trust(self.folder, {os.geteuid()})
        files = []
        for path in self.folder.glob(_NAME):
            with suppress(FileNotFoundError):  # another process may have removed it
                files.append((path.lstat(), path))
        files.sort(key=lambda file: -file[0].st_mtime_ns)
        return [(path, status.st_size) for status, path in files]

    def _make_folder(self) -> None:
        with _using(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def read_entry(path: str | Path) -> Entry:
    """The entry in a file outside of the cache, which the user or root owns. Raises EngineCacheError."""
    path = Path(path)
    try:
        return _read(path, in_cache=False)
    except FileNotFoundError as err:
        raise EngineCacheError(f"{path}: no such file; check the path, relative ones start at {Path.cwd()}") from err
    except ValueError as err:
        raise EngineCacheError(f"{path} cannot be used: {err}; copy it again, or build it again") from err


def write_entry(path: Path, key: Key, data: bytes, about: Mapping[str, Any], mode: int = 0o644) -> Entry:
    """Write a file for ``read_entry``, whole or not at all; missing folders are made. Raises SapnetError."""
    header = {"key": key, "about": about, "sha256": _sha256(data)}
    content = save({_DATA: np.frombuffer(data, np.uint8)}, {_ABOUT: _to_json(header)})
    with replacing(path) as temporary, open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
        file.write(content)
    return Entry(**json.loads(_to_json(header)), path=path, data=data)


def _read(path: Path, in_cache: bool = True, with_data: bool = True) -> Entry:
    """Raises EngineCacheError unless only the user, or root for a file outside of the cache, can have written it.

    FileNotFoundError; ValueError for what is no complete entry, whose text completes a sentence.
    """
    try:
        with _using(path):
            if in_cache:
                _check_trust(path.parent, {os.geteuid()})
            if not stat.S_ISREG(path.lstat().st_mode):  # first: nobody is told to change the rights of /tmp
                raise EngineCacheError(f"{path} is not a plain file, expected one of your own; put the file there")
            _check_trust(path, {os.geteuid()} if in_cache else {os.geteuid(), _ROOT})
            with safe_open(path, "np") as file:
                header = json.loads((file.metadata() or {})[_ABOUT])
                entry = Entry(**header, path=path, data=file.get_tensor(_DATA).tobytes() if with_data else b"")
    except (SafetensorError, ValueError, KeyError, TypeError) as err:
        raise ValueError(f"it is not an entry of ours: {err}") from err
    if with_data and _sha256(entry.data) != entry.sha256:
        raise ValueError("the checksum of its data is wrong")
    return entry


def _check_trust(path: Path, owners: Collection[int]) -> None:
    status = path.stat()
    if status.st_uid not in owners or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        name = shlex.quote(str(path))
        raise EngineCacheError(
            f"{path} belongs to user {status.st_uid} and has mode {stat.S_IMODE(status.st_mode):04o}, expected one "
            "that you own and nobody else can write, for engines are code; if you trust it: "
            f"sudo chown -R {os.geteuid()} {name} && chmod -R go-w {name}"
        )


def _unlink(path: Path) -> None:
    with _using(path):
        path.unlink(missing_ok=True)


@contextmanager
def _using(path: Path) -> Iterator[None]:
    """Raise an OSError inside, other than FileNotFoundError, as an EngineCacheError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as err:
        said = f"{path} cannot be used ({err.strerror or err})"
        raise EngineCacheError(f"{said}; check its rights and the disk's space, or name another folder") from err


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _to_json(value: Mapping[str, Any]) -> str:
    """JSON that equal values share."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
