"""Builds engines: in this process, or in a child process, so that frames go on undisturbed.

``python -m sapnet.backends.engines.build MODULE CLASS REQUEST CACHE_DIR`` is the child: it prints a line for each step.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from sapnet.backends.base import EngineShape, OnStep
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.errors import BackendError, SapnetError, UnfitEngineError

_EVENT = b"engine build: "  # begins the child's own lines; libraries print others
_POLL_S = 0.5
_END_S = 5.0


@dataclass(frozen=True)
class BuildRequest(ABC):
    """A request for an engine, of plain JSON values. stages: recurrences, never 0."""

    weights: str
    shape: EngineShape
    precision: str
    stages: int

    def key(self) -> Key:
        """Of the cache's entry: equal keys give equal engines. Raises SapnetError."""
        shape = [self.shape.height, self.shape.width, self.shape.max_batch]
        asked = {"kind": "engine", "shape": shape, "precision": self.precision, "stages": self.stages}
        return {**asked, **self.origin()}

    @abstractmethod
    def origin(self) -> Key:
        """What an engine is made from and with: weights, code, versions, target. Raises SapnetError."""

    @abstractmethod
    def build(self, cache: EngineCache, on_step: OnStep) -> bytes:
        """The engine. cache: for what builds share. Raises SapnetError."""


def build(request: BuildRequest, cache: EngineCache, on_step: OnStep) -> Entry:
    """The engine from the cache, else built in this process and stored; concurrent callers share one build.

    Raises SapnetError.
    """

    def build_now() -> tuple[bytes, Mapping[str, Any]]:
        began = time.monotonic()
        engine = request.build(cache, on_step)
        return engine, {"seconds": round(time.monotonic() - began, 1)}

    return cache.get_or_build(request.key(), build_now)


def build_in_child(request: BuildRequest, cache: EngineCache, on_step: OnStep, stopped: threading.Event) -> Entry:
    """``build`` in a child process, which does not outlive this one.

    on_step: called at least twice a second. stopped: ends the build, which then raises BackendError.
    Raises UnfitEngineError if the builder refuses, which it would do again, else SapnetError.
    """
    kind = type(request)
    # The module `tethered` has the kernel end the child with its parent, however that dies.
    command = [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), __name__, kind.__module__, kind.__name__]
    with subprocess.Popen(
        [*command, json.dumps(asdict(request)), str(cache.folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches it only through us
    ) as child:
        end: Mapping[str, Any] | None = None
        try:
            end = _follow(child, on_step, stopped)
        finally:
            if end is None:
                child.terminate()
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
    if end is None:
        raise BackendError(f"the build of the engine for {request.shape} was stopped")
    if child.returncode < 0:
        raise BackendError(
            f"the build of the engine for {request.shape} was ended by signal {-child.returncode}; "
            "9 may mean out of memory"
        )
    if child.returncode:
        raise (UnfitEngineError if end["unfit"] else BackendError)(end["error"])
    if (entry := cache.load(request.key())) is None:
        raise BackendError(f"the engine for {request.shape} was built, but is not in {cache.folder}; check its rights")
    return entry


def _follow(child: subprocess.Popen[bytes], on_step: OnStep, stopped: threading.Event) -> Mapping[str, Any] | None:
    """Report the child's steps until it ends. Returns its last event, None if stopped."""
    assert child.stdout is not None
    event: dict[str, Any] = {"step": "starting", "share": 0.0, "error": "", "unfit": False}
    last, rest = b"the build ended without a word", b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not stopped.is_set():
            if selector.select(_POLL_S):
                if not (said := os.read(child.stdout.fileno(), 65536)):
                    # Of a crash the last line that it has printed says most.
                    return {**event, "error": event["error"] or last.decode(errors="replace")}
                *lines, rest = (rest + said).split(b"\n")
                for line in filter(None, map(bytes.strip, lines)):
                    if line.startswith(_EVENT):
                        event.update(json.loads(line.removeprefix(_EVENT)))
                    else:
                        last = line
            on_step(event["step"], event["share"])
    return None


def main() -> int:
    """The child process."""
    module, kind, request, folder = sys.argv[1:]
    values = json.loads(request)
    try:
        wanted = getattr(import_module(module), kind)(**{**values, "shape": EngineShape(**values["shape"])})
        build(wanted, EngineCache(folder), lambda step, share: _say(step=step, share=share))
    except SapnetError as err:
        _say(error=str(err), unfit=isinstance(err, UnfitEngineError))
        return 1
    return 0


def _say(**event: Any) -> None:
    # A library may have printed an incomplete line.
    print(f"\n{_EVENT.decode()}{json.dumps(event)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
