"""One entry of the engine cache in one file: whole or not there, and checked before it is used.

A file holds the prefix (magic, length and SHA-256 of the header), the header as JSON (key, about, size and SHA-256 of
the data) and the data. An engine is code, so a file is only read where nobody else could have written it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shlex
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sapnet.backends.engines.key import Key, bytes_digest
from sapnet.errors import EngineCacheError

_MAGIC = b"sapnet/1"
_PREFIX = struct.Struct("<8sI32s")
_MAX_HEADER = 2**20  # bytes
_ROOT = 0


@dataclass(frozen=True)
class Entry:
    """What a file holds. about: worth knowing, but no part of the identity (build seconds, agreement in dB)."""

    key: Key
    about: Mapping[str, Any]
    data: bytes
    path: Path


@dataclass(frozen=True)
class Header:
    """What a file says of its data. size: of the data, in bytes; sha256: of the data, in hexadecimal."""

    key: dict[str, Any]
    about: dict[str, Any]
    size: int
    sha256: str


class DamagedError(Exception):
    """A file that is no entry, or not all of one; its text is a part of a sentence."""


def read_entry(path: str | Path) -> Entry:
    """The entry in a file outside of the cache, which the user or root owns. Raises EngineCacheError."""
    path = Path(path)
    try:
        return read_file(path, {os.geteuid(), _ROOT})
    except FileNotFoundError as err:
        raise EngineCacheError(f"{path}: no such file; check the path, relative ones start at {Path.cwd()}") from err
    except DamagedError as err:
        raise EngineCacheError(f"{path} cannot be used: {err}; copy it again, or build it again") from err


def write_entry(path: str | Path, key: Key, data: bytes, about: Mapping[str, Any]) -> Entry:
    """Write a file for ``read_entry``, whole or not at all; missing folders are made. Raises EngineCacheError."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise unwritable(path.parent, err) from err
    return write_file(path, key, data, about, mode=0o644)


def to_json(value: Mapping[str, Any]) -> bytes:
    """``value`` in the one way of writing it that equal values share. Raises EngineCacheError."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as err:
        raise EngineCacheError(f"got {value!r}, expected plain JSON values ({err})") from err


def unwritable(path: Path, err: OSError) -> EngineCacheError:
    """The error for ``path``, which could not be written."""
    return EngineCacheError(
        f"{path} cannot be written ({err.strerror}); make space and check the rights there, or name another folder"
    )


def check_trust(path: Path, status: os.stat_result, owners: Collection[int]) -> None:
    """Raises EngineCacheError unless one of ``owners`` (user ids) has ``path`` and nobody else can write it."""
    name = shlex.quote(str(path))
    recursive = "-R " if stat.S_ISDIR(status.st_mode) else ""
    expected = "expected one that you own and nobody else can write, for engines are code"
    if status.st_uid not in owners:
        command = f"sudo chown {recursive}{os.geteuid()} {name}"
        raise EngineCacheError(f"{path} belongs to user {status.st_uid}, {expected}; if you trust it: {command}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode, command = stat.S_IMODE(status.st_mode), f"chmod {recursive}go-w {name}"
        raise EngineCacheError(f"{path} has mode {mode:04o}, {expected}; if you trust it: {command}")


def read_file(path: Path, owners: Collection[int]) -> Entry:
    """The entry in ``path``. Raises FileNotFoundError, DamagedError; EngineCacheError for what must not be read."""
    with opened(path, owners) as (file, header):
        data = file.read(header.size)
    if bytes_digest(data) != header.sha256:
        raise DamagedError("the checksum of its data is wrong")
    return Entry(header.key, header.about, data, path)


@contextmanager
def opened(path: Path, owners: Collection[int]) -> Iterator[tuple[BinaryIO, Header]]:
    """An entry's file, at its data, and its header. Raises as ``read_file`` does."""
    try:
        with open(path, "rb", opener=_open_plain) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise EngineCacheError(f"{path} is not a plain file; remove it: rm {shlex.quote(str(path))}")
            check_trust(path, status, owners)
            yield file, _read_header(file, status.st_size)
    except FileNotFoundError:
        raise
    except OSError as err:
        what = "is a symbolic link" if path.is_symlink() else f"cannot be read ({err.strerror})"
        raise EngineCacheError(f"{path} {what}, expected a file of your own; put the file itself there") from err


def _open_plain(path: str, flags: int) -> int:
    # A FIFO in the place of a file would have an open wait for its writer.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read_header(file: BinaryIO, file_size: int) -> Header:
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise DamagedError(f"it ends after {len(prefix)} bytes")
    magic, length, digest = _PREFIX.unpack(prefix)
    if magic != _MAGIC:
        raise DamagedError(f"it begins with {magic!r}, expected {_MAGIC!r}")
    if length > _MAX_HEADER:
        raise DamagedError(f"its header has {length} bytes, expected at most {_MAX_HEADER}")
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise DamagedError("the checksum of its header is wrong")
    header = _parse(text)
    size = file_size - file.tell()
    if size != header.size:
        raise DamagedError(f"it holds {size} bytes of data, expected {header.size}")
    return header


def _parse(text: bytes) -> Header:
    try:
        header = Header(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as err:
        raise DamagedError("its header is not one of ours") from err
    if [type(value) for value in vars(header).values()] != [dict, dict, int, str]:
        raise DamagedError("its header is not one of ours")
    return header


def write_file(path: Path, key: Key, data: bytes, about: Mapping[str, Any], mode: int) -> Entry:
    """Write an entry in the place of an earlier file, which stays as it was where that fails: EngineCacheError."""
    digest = bytes_digest(data)
    text = to_json({"key": key, "about": about, "size": len(data), "sha256": digest})
    if len(text) > _MAX_HEADER:
        raise EngineCacheError(f"{path}: key and about take {len(text)} bytes, expected at most {_MAX_HEADER}")
    try:
        with _replacing(path, mode) as file:
            file.write(_PREFIX.pack(_MAGIC, len(text), hashlib.sha256(text).digest()) + text)
            file.write(data)
    except OSError as err:
        raise unwritable(path, err) from err
    header = _parse(text)
    return Entry(header.key, header.about, data, path)


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` at the end. Its lock says that its writer lives."""
    temporary, file = _create_temporary(path, mode)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system syncs folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _create_temporary(path: Path, mode: int) -> tuple[Path, BinaryIO]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        with suppress(OSError):  # a file system without locks, where nothing counts as abandoned
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another process took it for abandoned before it was locked


def remove_abandoned(path: Path) -> None:
    """Remove a temporary or lock file, unless a process that lives holds its lock."""
    with suppress(OSError), open(path, "rb+", opener=_open_plain) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:  # else the name is a newer file's by now
            path.unlink()
