"""Engines that are built in a child process, kept or removed: the fake backend does all of it but TensorRT's part."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from waiting import eventually, is_alive

from sapnet.backends import BackendSpec, BuildStatus
from sapnet.backends.base import EngineShape, OnBuild
from sapnet.backends.engines.build import build_in_child
from sapnet.backends.engines.cache import EngineCache
from sapnet.backends.fake import FakeBackend, FakeRequest
from sapnet.errors import BackendError, UnfitEngineError

ROOT = Path(__file__).resolve().parents[4]
SHAPE = (1, 48, 64)


@pytest.fixture
def noise(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What libraries print in the child."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "sitecustomize.py").write_text("import os; os.write(1, b'hello\\nworld')")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")


def make(
    cache: Path, *errors: BackendError, place: str = "", on_build: OnBuild = lambda status: None, **options: object
) -> Any:
    """A backend. errors: of the first loads. place: the GPU that there is."""
    backend = FakeBackend(BackendSpec(cache_dir=str(cache), on_build=on_build, fake={"build_s": 0.05, **options}))
    backend._place = {"gpu": place}
    if errors:
        runner = Mock(shape=EngineShape(*SHAPE[1:]))
        backend._load = Mock(side_effect=chain(errors, repeat(runner)))
    return backend


def kinds(folder: Path) -> list[str]:
    return sorted(str(entry.key["kind"]) for entry in EngineCache(folder).entries())


@pytest.mark.usefixtures("noise")
def test_an_engine_is_built_once_and_found_from_then_on(tmp_path: Path) -> None:
    told: list[BuildStatus] = []
    first = make(tmp_path, on_build=told.append)
    assert not first.is_ready(*SHAPE)
    first.prepare(*SHAPE)
    assert first.is_ready(*SHAPE)
    assert (told[-1].shape.height, told[-1].shape.width) == SHAPE[1:]
    assert [status.share for status in told] == sorted(status.share for status in told)
    assert told[-1].step == "building"
    told.clear()
    second = make(tmp_path, on_build=told.append)
    assert not second.is_ready(*SHAPE)
    second.prepare(*SHAPE)
    assert second.is_ready(*SHAPE)
    # Memory that runs out costs no engine.
    third = make(tmp_path, BackendError("CUDA out of memory"), on_build=told.append)
    with pytest.raises(BackendError, match="out of memory"):
        third.prepare(*SHAPE)
    third.prepare(*SHAPE)
    assert not told
    # One that was found unfit is built again.
    make(tmp_path, UnfitEngineError("agrees by 3 dB only"), on_build=told.append).prepare(*SHAPE)
    assert told
    (entry,) = EngineCache(tmp_path).entries()
    assert entry.key["shape"] == [48, 64, 1]


@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize(
    ("errors", "mode", "said"),
    [
        ([], "build_fails", "fake failure: the engine cannot be built"),
        ([UnfitEngineError("agrees by 3 dB only")], "identity", "agrees by 3 dB only"),
    ],
)
def test_one_that_cannot_be_built_or_is_unfit_as_built_is_not_built_again(errors, mode, said, tmp_path: Path) -> None:
    told: list[BuildStatus] = []
    with pytest.raises(UnfitEngineError, match=f"^{said}$"):
        make(tmp_path, *errors, mode=mode).prepare(*SHAPE)
    assert kinds(tmp_path) == ["verdict"]
    with pytest.raises(BackendError, match=f"{said}; it is not built again, unless .*--clear"):
        make(tmp_path, on_build=told.append, mode=mode).prepare(*SHAPE)
    assert not told
    with pytest.raises(UnfitEngineError) if mode == "build_fails" else nullcontext():
        make(tmp_path, on_build=told.append, place="another GPU", mode=mode).prepare(*SHAPE)
    assert told


def test_a_build_that_may_succeed_another_time_is_not_remembered_as_a_failure(tmp_path: Path) -> None:
    request = FakeRequest("sapnet_fast", EngineShape(48, 64), "fp32", 4, build_s=0.0, fails=False)
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match=r"cannot be used \(Not a directory\)") as caught:
        build_in_child(request, EngineCache(tmp_path / "file"), lambda step, share: None, threading.Event())
    assert type(caught.value) is BackendError


def test_that_no_build_can_be_started_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile._get_default_tempdir", Mock(side_effect=FileNotFoundError(2, "No usable folder")))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(BackendError, match=r"the engine for 48x64 cannot be started: .*No usable folder"):
        make(tmp_path).prepare(*SHAPE)


def test_closing_stops_a_build_for_which_no_engine_that_is_there_waits(tmp_path: Path) -> None:
    there = FakeRequest("sapnet_fast", EngineShape(48, 64), "fp32", 0, build_s=60.0, fails=False)
    EngineCache(tmp_path).store(there.key(), b"engine", {})
    begun = threading.Event()
    slow = make(tmp_path, on_build=lambda status: begun.set() if status.share else None, build_s=60.0)
    before = set(psutil.Process().children())
    with ThreadPoolExecutor(1) as another:
        build = another.submit(slow.prepare, 1, 16, 16)
        assert begun.wait(60)
        assert set(psutil.Process().children()) > before
        slow.prepare(*SHAPE)
        assert slow.is_ready(*SHAPE)
        assert not build.done()
        slow.close()
        with pytest.raises(BackendError, match="was stopped"):
            build.result(60)
    assert set(psutil.Process().children()) == before
    assert kinds(tmp_path) == ["engine"]


def test_a_killed_build_is_said_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def kill(status: BuildStatus) -> None:
        if status.share:
            for child in set(psutil.Process().children()) - before:
                child.kill()

    before = set(psutil.Process().children())
    with pytest.raises(BackendError, match=r"ended by signal 9; 9 may mean out of memory"):
        make(tmp_path, on_build=kill, build_s=60.0).prepare(*SHAPE)
    after = make(tmp_path)
    after.prepare(*SHAPE)
    assert after.is_ready(*SHAPE)


def test_a_build_ends_with_the_process_that_wanted_it(tmp_path: Path) -> None:
    program = (
        "import sys, threading; from sapnet.backends import BackendSpec; from sapnet.backends.fake import FakeBackend\n"
        "say = lambda status: status.share and print('building', flush=True)\n"
        f"spec = BackendSpec(cache_dir={str(tmp_path)!r}, on_build=say, fake={{'build_s': 60.0}})\n"
        "FakeBackend(spec).prepare(1, 48, 64)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "building\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    eventually(lambda: not is_alive(child))
