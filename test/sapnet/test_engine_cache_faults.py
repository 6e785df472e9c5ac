"""The engine cache and its files under faults: damage of every kind, and killed writers."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sapnet.backends.engines.cache import EngineCache, Entry, read_entry
from sapnet.errors import EngineCacheError

KEY = {"kind": "engine", "weights": "3f2a", "shape": [720, 1280]}
OTHER_KEY = {**KEY, "weights": "3f2b"}
STEP = 64 * 1024
WRITER = """
import sys
from sapnet.backends.engines.cache import EngineCache

cache, data = EngineCache(sys.argv[1]), bytes(range(256)) * 2**17
while True:
    cache.store({"kind": "engine"}, data, {})
"""
# Whose writes end with the process, killed by the kernel, at as many bytes as each line says.
KILLED_WRITERS = """
import os, resource, signal, sys
from sapnet.backends.engines.cache import EngineCache

cache = EngineCache(sys.argv[1])
for limit in sys.stdin:
    writer = os.fork()
    if not writer:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        cache.store({"kind": "engine"}, bytes(range(256)) * 2**12, {})
    print(os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]), flush=True)
"""
BUILDER = """
import sys, time
from sapnet.backends.engines.cache import EngineCache

EngineCache(sys.argv[1]).get_or_build({"kind": "engine"}, lambda: print("building", flush=True) or time.sleep(600))
"""


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def entry(cache: EngineCache) -> Entry:
    """About 1 MB of noise in the cache, as an engine."""
    return cache.store(KEY, np.random.default_rng(0).bytes(1_000_003), {"build_s": 2.5})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_damaged(cache: EngineCache, entry: Entry, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With ``content`` in its file, the entry is gone, with one line in the log, and can be stored again."""
    entry.path.write_bytes(content)
    with pytest.raises(EngineCacheError, match=r"cannot be used: .*; copy it again"):
        read_entry(entry.path)
    caplog.clear()
    with caplog.at_level(logging.INFO, "sapnet"):
        built = cache.get_or_build(KEY, lambda: (b"built", {}))
    assert built.data == b"built"
    assert len(caplog.records) == 1
    assert names(cache.folder) == [entry.path.name]


def real_engine() -> bytes:
    """A product with a 512 x 512 matrix of noise as a TensorRT-RTX engine, of a little more than 1 MB."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    matrix = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    source = network.add_input("source", trt.float32, (1, 512))
    constant = network.add_constant(matrix.shape, matrix).get_output(0)
    none = trt.MatrixOperation.NONE
    network.mark_output(network.add_matrix_multiply(source, none, constant, none).get_output(0))
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


def test_truncated_entries_are_rebuilt(cache: EngineCache, entry: Entry, caplog: pytest.LogCaptureFixture) -> None:
    whole = entry.path.read_bytes()
    for length in [0, 1, 43, 44, 200, *range(STEP, len(whole), STEP), len(whole) - 1]:
        assert_damaged(cache, entry, whole[:length], caplog)
    assert_damaged(cache, entry, whole + b"\x00", caplog)


def test_a_real_engine_comes_back_whole_or_not_at_all(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    engine = real_engine()
    assert len(engine) > 1_000_000
    entry = cache.store(KEY, engine, {})
    assert (loaded := cache.load(KEY)) is not None
    assert loaded.data == engine
    whole = entry.path.read_bytes()
    for length in [0, 1, *range(STEP, len(whole), STEP), len(whole) - 1]:
        assert_damaged(cache, entry, whole[:length], caplog)


def test_a_flipped_bit_anywhere_is_found(cache: EngineCache, entry: Entry, caplog: pytest.LogCaptureFixture) -> None:
    whole = entry.path.read_bytes()
    first, last = len(whole) - len(entry.data), len(whole) - 1  # of the data
    rng = np.random.default_rng(1)
    prefix, header, data = range(44), rng.integers(44, first, 20), rng.integers(first, last, 10)
    for place in (*prefix, *header, *data, first, last):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        assert_damaged(cache, entry, bytes(flipped), caplog)


@pytest.mark.parametrize("content", [b"\x7fELF" * 100, b"sapnet/1" + b"\xff" * 100, b"sapnet/1" + b"\x00" * 100])
def test_a_file_of_another_kind_is_rebuilt(
    cache: EngineCache, entry: Entry, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert_damaged(cache, entry, content, caplog)


@pytest.mark.parametrize("header", [b"[]", b"{}", b"\xff", b"[" * 10**5, b'{"key":1,"about":{},"size":0,"sha256":""}'])
def test_a_sound_header_of_another_kind_is_rebuilt(
    cache: EngineCache, entry: Entry, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = b"sapnet/1" + len(header).to_bytes(4, "little") + hashlib.sha256(header).digest()
    assert_damaged(cache, entry, prefix + header, caplog)


def test_another_keys_entry_is_removed(cache: EngineCache, entry: Entry) -> None:
    other = cache.store(OTHER_KEY, b"other", {})
    os.replace(other.path, entry.path)
    assert cache.load(KEY) is None
    assert not entry.path.exists()


def test_damaged_entries_are_not_listed(cache: EngineCache, entry: Entry) -> None:
    cache.store(OTHER_KEY, b"other", {})
    entry.path.write_bytes(b"rubbish")
    assert [listed.key for listed in cache.entries()] == [OTHER_KEY]


@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_a_writer_killed_at_any_byte_leaves_no_rubbish(tmp_path: Path, earlier: bytes | None) -> None:
    cache = EngineCache(tmp_path / "cache")
    if earlier is not None:
        cache.store({"kind": "engine"}, earlier, {})
    command = [sys.executable, "-c", KILLED_WRITERS, str(cache.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdin is not None
        assert killed.stdout is not None
        for limit in [0, 1, 43, 44, 100, *range(STEP, 2**20 + 1, STEP)]:
            killed.stdin.write(f"{limit}\n")
            killed.stdin.flush()
            assert int(killed.stdout.readline()) == -signal.SIGXFSZ
            [temporary] = cache.folder.glob(".*.tmp")
            assert temporary.stat().st_size == limit
            loaded = cache.load({"kind": "engine"})
            assert (loaded and loaded.data) == earlier
            other = cache.store(OTHER_KEY, b"other", {})
            assert not temporary.exists()
            assert names(cache.folder) == sorted(entry.path.name for entry in (other, loaded) if entry)


def stop_in_a_store(writer: subprocess.Popen[bytes], folder: Path) -> Path:
    """Have a writer that stores all the time stand still in the middle of a store; its temporary file."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for temporary in folder.glob(".*.tmp"):
            writer.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
            if temporary.exists() and temporary.stat().st_size > 0:
                return temporary
            writer.send_signal(signal.SIGCONT)
    raise TimeoutError(f"no store was met in {folder}")


def test_a_writers_file_stays_while_it_lives(cache: EngineCache) -> None:
    cache.store(OTHER_KEY, b"other", {})
    with subprocess.Popen([sys.executable, "-c", WRITER, str(cache.folder)]) as writer:
        try:
            temporary = stop_in_a_store(writer, cache.folder)
            cache.store(OTHER_KEY, b"other", {})
            cache.clear()
            assert temporary.exists()
        finally:
            writer.kill()
    assert cache.load({"kind": "engine"}) is None
    cache.clear()
    assert names(cache.folder) == []


def test_a_killed_builders_lock_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with subprocess.Popen([sys.executable, "-c", BUILDER, str(folder)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"building\n"
        builder.kill()
    assert len(names(folder)) == 1, "the lock file is there"
    entry = EngineCache(folder).get_or_build({"kind": "engine"}, lambda: (b"data", {}), timeout_s=0)
    assert names(folder) == [entry.path.name]
