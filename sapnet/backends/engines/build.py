"""Builds engines: in this process, or in a child process, so that frames go on undisturbed.

``python -m sapnet.backends.engines.build REQUEST CACHE_DIR`` is the child: it prints a line for each step.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol, cast

import sapnet
from sapnet.backends.base import EngineShape, OnStep
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.errors import BackendError, SapnetError, UnfitEngineError

# Prefixes of the child's lines: its progress, and why it failed.
_PROGRESS, _ERROR = "progress: ", "error: "
_POLL_S = 0.5
_END_S = 5.0
_FAILED, _UNFIT = 1, 3  # exit status of the child: a retry may succeed, or cannot
_BUILT = 0.95  # the rest is storing and loading


@dataclass(frozen=True)
class BuildRequest:
    """A request for an engine.

    builder: dotted name of the module that builds it, a Builder. stages: recurrences, never 0.
    options: what the builder needs besides, plain JSON values: target or device.
    """

    weights: str
    shape: EngineShape
    builder: str
    precision: str
    stages: int
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def key(self) -> Key:
        """Of the cache's entry: equal keys give equal engines. Raises SapnetError."""
        shape = [self.shape.height, self.shape.width, self.shape.max_batch]
        asked = {"kind": "engine", "shape": shape, "precision": self.precision, "stages": self.stages}
        return {**asked, **_builder(self).origin(self), "flags": {"tf32": False}}

    def to_json(self) -> str:
        """The request as a child process takes it."""
        return json.dumps({**asdict(self), "options": dict(self.options)})

    @classmethod
    def from_json(cls, text: str) -> BuildRequest:
        """The inverse of ``to_json``."""
        values = json.loads(text)
        return cls(**{**values, "shape": EngineShape(**values["shape"])})


class Builder(Protocol):
    """A module that builds engines of one kind."""

    def origin(self, request: BuildRequest) -> Key:
        """What an engine is made from and with: weights, code, versions, target. Raises SapnetError."""
        ...

    def build(self, request: BuildRequest, cache: EngineCache, on_step: OnStep) -> bytes:
        """The engine. cache: for what builds share. Raises SapnetError."""
        ...


def build(request: BuildRequest, cache: EngineCache, on_step: OnStep) -> Entry:
    """The engine from the cache, else built in this process and stored; concurrent callers share one build.

    Raises SapnetError.
    """

    def build_now() -> tuple[bytes, Mapping[str, Any]]:
        began = time.monotonic()
        engine = _builder(request).build(request, cache, on_step)
        on_step("built", _BUILT)
        return engine, {"seconds": round(time.monotonic() - began, 1), "sapnet": sapnet.__version__}

    waiting = "waiting for another process that builds it"
    return cache.get_or_build(request.key(), build_now, on_wait=lambda: on_step(waiting, 0.0))


def build_in_child(request: BuildRequest, cache: EngineCache, on_step: OnStep, stopped: threading.Event) -> Entry:
    """``build`` in a child process, which does not outlive this one.

    on_step: called at least twice a second. stopped: ends the build, which then raises BackendError.
    Raises UnfitEngineError if the builder refuses, which it would do again, else SapnetError.
    """
    # The module `tethered` has the kernel end the child with its parent, however that dies.
    command = [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), __name__]
    with subprocess.Popen(
        [*command, request.to_json(), str(cache.folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it only through us
    ) as child:
        try:
            said = _follow(child, on_step, stopped)
        except BaseException:
            child.terminate()
            raise
        finally:
            _end(child, stopped.is_set())
    if stopped.is_set():
        raise BackendError(f"the build of the engine for {request.shape} was stopped")
    if child.returncode < 0:
        raise BackendError(
            f"the build of the engine for {request.shape} was ended by signal {-child.returncode}; "
            "9 may mean out of memory"
        )
    if child.returncode:
        kind = UnfitEngineError if child.returncode == _UNFIT else BackendError
        raise kind(_why(child.returncode, said))
    if (entry := cache.load(request.key())) is None:
        raise BackendError(f"the engine for {request.shape} was built, but is not in {cache.folder}; check its rights")
    return entry


def main() -> int:
    """The child process."""
    request, folder = BuildRequest.from_json(sys.argv[1]), sys.argv[2]

    def on_step(step: str, share: float) -> None:
        _say(_PROGRESS, json.dumps({"step": step, "share": share}))

    try:
        build(request, EngineCache(folder), on_step)
    except SapnetError as err:
        _say(_ERROR, str(err))
        return _UNFIT if isinstance(err, UnfitEngineError) else _FAILED
    return 0


def _say(kind: str, text: str) -> None:
    # A library may have printed an incomplete line.
    print(f"\n{kind}{text}", flush=True)


def _builder(request: BuildRequest) -> Builder:
    return cast(Builder, import_module(request.builder))


def _follow(child: subprocess.Popen[str], on_step: OnStep, stopped: threading.Event) -> list[str]:
    """Report the child's steps until it ends; returns the other lines that it has printed."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line.strip())
        lines.put(None)

    threading.Thread(target=read, name="engine build", daemon=True).start()
    said: list[str] = []
    step, share = "starting", 0.0
    while not stopped.is_set():
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            on_step(step, share)
            continue
        if line is None:
            break
        if line.startswith(_PROGRESS):
            event = json.loads(line.removeprefix(_PROGRESS))
            step, share = event["step"], event["share"]
            on_step(step, share)
        elif line:
            said.append(line)
    return said


def _end(child: subprocess.Popen[str], stopped: bool) -> None:
    """Wait for the child; terminate it if stopped, kill it if it does not end."""
    if stopped:
        child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _why(status: int, said: list[str]) -> str:
    # Libraries may print more when the process ends.
    ours = [line.removeprefix(_ERROR) for line in said if line.startswith(_ERROR)]
    return (ours or said or [f"the build ended with status {status}"])[-1]


if __name__ == "__main__":
    sys.exit(main())
