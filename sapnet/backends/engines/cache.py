"""Engines, exported models and compiled kernels, kept in the user's cache folder and built once."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sapnet.backends.engines.container import (
    DamagedError,
    Entry,
    check_trust,
    opened,
    read_entry,
    read_file,
    remove_abandoned,
    to_json,
    unwritable,
    write_entry,
    write_file,
)
from sapnet.backends.engines.key import Key
from sapnet.errors import EngineCacheError

__all__ = ["EngineCache", "Entry", "Listed", "read_entry", "write_entry"]

_KIND = re.compile(r"[a-z0-9_-]+")
_NAME = "*-" + "[0-9a-f]" * 64 + ".entry"
_TEMPORARY = f".{_NAME}.*.tmp"
_LOCK = f".{_NAME}.lock"

log = logging.getLogger("sapnet")


@dataclass(frozen=True)
class Listed:
    """An entry without its data.

    size: of the file, in bytes; sha256: of the data; used: when it was last stored or loaded, Unix time.
    """

    key: Key
    about: Mapping[str, Any]
    path: Path
    size: int
    sha256: str
    used: float


class EngineCache:
    """Entries by their keys: plain JSON values, of which ``kind`` says what the data is, such as ``engine``.

    folder: "" means ``sapnet/engines`` in the user's cache folder; made on the first store, for the user alone.
    max_bytes: beyond it, the least recently used entries are removed.
    Every method raises EngineCacheError, and says why and what to do, where the folder or a file cannot be
    written, or is somebody else's or writable by others.
    """

    def __init__(self, folder: str | Path = "", max_bytes: int = 8 * 2**30) -> None:
        self.folder = _find_folder(str(folder))
        self._max_bytes = max_bytes

    def load(self, key: Key) -> Entry | None:
        """The entry of ``key``, or None. A damaged one, or another key's, is removed, with one line in the log."""
        path = self._path(key)
        if not self._is_there():
            return None
        try:
            entry = read_file(path, {os.geteuid()})
            if to_json(entry.key) != to_json(key):
                raise DamagedError("it holds another key than its name says")
        except FileNotFoundError:
            return None
        except DamagedError as err:
            log.warning("%s is damaged (%s): removed, and built again when it is needed", path, err)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # says when it was used: few file systems keep the time of access
        return entry

    def store(self, key: Key, data: bytes, about: Mapping[str, Any]) -> Entry:
        """Keep ``data`` under ``key``, in the place of an earlier entry. Where that fails, all stays as it was."""
        path = self._path(key)
        self._make_folder()
        self._remove_leftovers()
        entry = write_file(path, key, data, about, mode=0o600)
        self._evict(newest=path)
        return entry

    def get_or_build(
        self,
        key: Key,
        build: Callable[[], tuple[bytes, Mapping[str, Any]]],
        timeout_s: float = 3600.0,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Entry:
        """The entry of ``key``, built if there is none: once, however many threads and processes ask for it.

        build: gives data and about. What it raises is passed on, and the next one in the queue builds.
        timeout_s: how long to wait at most while another builds it. on_wait: called once before such a wait.
        """
        entry = self.load(key)
        if entry is None:
            with self._locked(self._path(key), timeout_s, on_wait):
                entry = self.load(key) or self.store(key, *build())
        return entry

    def remove(self, key: Key) -> None:
        """Have no entry of ``key``."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as err:
            raise unwritable(self._path(key), err) from err

    def entries(self) -> list[Listed]:
        """All entries whose headers are sound, the last used first; their data is not checked."""
        listed = []
        for path in self._files(_NAME):
            with suppress(FileNotFoundError, DamagedError), opened(path, {os.geteuid()}) as (file, header):
                status = os.fstat(file.fileno())
                size, used = status.st_size, status.st_mtime
                listed.append(Listed(header.key, header.about, path, size, header.sha256, used))
        return sorted(listed, key=lambda entry: entry.used, reverse=True)

    def clear(self) -> int:
        """Remove all entries, damaged ones too, and what killed processes left. Returns the number of entries."""
        paths = self._files(_NAME)
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as err:
                raise EngineCacheError(f"{path} cannot be removed ({err.strerror}); check the folder's rights") from err
        self._remove_leftovers()
        return len(paths)

    def _path(self, key: Key) -> Path:
        kind = key.get("kind")
        if not (isinstance(kind, str) and _KIND.fullmatch(kind)):
            raise EngineCacheError(f"got a key with kind {kind!r}, expected one of {_KIND.pattern}, such as 'engine'")
        return self.folder / f"{kind}-{hashlib.sha256(to_json(key)).hexdigest()}.entry"

    def _files(self, pattern: str) -> list[Path]:
        return sorted(self.folder.glob(pattern)) if self._is_there() else []

    def _is_there(self) -> bool:
        """Whether there is a folder; if so, it can be trusted."""
        try:
            status = self.folder.stat()
        except FileNotFoundError:
            return False
        except OSError as err:
            raise EngineCacheError(f"{self.folder} cannot be read ({err.strerror}); check the path") from err
        if not stat.S_ISDIR(status.st_mode):
            raise EngineCacheError(f"{self.folder} is a file, expected a folder for engines; name another")
        check_trust(self.folder, status, {os.geteuid()})
        return True

    def _make_folder(self) -> None:
        if not self._is_there():
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as err:
                raise unwritable(self.folder, err) from err
            self._is_there()  # another may have made it meanwhile

    @contextmanager
    def _locked(self, path: Path, timeout_s: float, on_wait: Callable[[], None]) -> Iterator[None]:
        self._make_folder()
        file = path.with_name(f".{path.name}.lock")
        lock = FileLock(file, mode=0o600)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                on_wait()
                lock.acquire(timeout=timeout_s, poll_interval=0.1)
        except Timeout as err:
            raise EngineCacheError(
                f"{file} was held for more than {timeout_s:g} s by another process that builds {path.name}; "
                f"wait for it, or find it and end it: fuser -v {shlex.quote(str(file))}"
            ) from err
        except OSError as err:
            raise unwritable(file, err) from err
        try:
            yield
        finally:
            # While it is held: one who waits for the removed file finds it without a name, and opens a new one.
            with suppress(OSError):
                file.unlink()
            lock.release()

    def _remove_leftovers(self) -> None:
        for path in (*self._files(_TEMPORARY), *self._files(_LOCK)):
            remove_abandoned(path)

    def _evict(self, newest: Path) -> None:
        files = []
        for path in self._files(_NAME):
            with suppress(FileNotFoundError):
                status = path.lstat()
                files.append((path == newest, status.st_mtime_ns, path, status.st_size))
        total = sum(size for *_, size in files)
        for is_newest, _, path, size in sorted(files):
            if total <= self._max_bytes:
                break
            if is_newest:
                log.warning("%s is kept, though its %d bytes alone exceed the bound of the cache", path, size)
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
                total -= size


def _find_folder(folder: str) -> Path:
    try:
        if folder:
            return Path(folder).expanduser()
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The XDG specification has a relative path count as none.
        return (base if base.is_absolute() else Path.home() / ".cache") / "sapnet" / "engines"
    except RuntimeError as err:
        raise EngineCacheError(f"the cache folder {folder!r} needs a home folder ({err}); name another") from err
