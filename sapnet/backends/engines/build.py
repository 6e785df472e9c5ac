"""Engines by frame size: taken from the cache, else built in a child process, so that frames go on undisturbed.

``python -m sapnet.backends.engines.build MODULE:CLASS REQUEST CACHE_DIR`` is the child: it prints a line for each step.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from tempfile import NamedTemporaryFile
from typing import Any

from sapnet.backends.base import Backend, BackendSpec, EngineShape, OnStep, Runner, watch_build
from sapnet.backends.engines.cache import EngineCache, Entry, Key
from sapnet.errors import BackendError, SapnetError, UnfitEngineError

_EVENT = "engine build: "  # begins the child's own lines; libraries print others
_POLL_S = 0.25

log = logging.getLogger("sapnet")


@dataclass(frozen=True)
class BuildRequest(ABC):
    """A request for an engine, of plain JSON values. stages: recurrences, never 0."""

    weights: str
    shape: EngineShape
    precision: str
    stages: int

    def key(self) -> Key:
        """Of the cache's entry: what is asked for, and in subclasses what an engine is made from and with.

        Equal keys give equal engines. Raises SapnetError.
        """
        return {"kind": "engine", **asdict(self)}

    @abstractmethod
    def build(self, cache: EngineCache, on_step: OnStep) -> bytes:
        """The engine. cache: for what builds share. Raises SapnetError."""

    def get_or_build(self, cache: EngineCache, on_step: OnStep) -> Entry:
        """The engine from the cache, else built in this process and stored. Raises SapnetError."""
        return cache.get_or_build(self.key(), lambda: self.build(cache, on_step))


def build_in_child(request: BuildRequest, cache: EngineCache, on_step: OnStep, stopped: threading.Event) -> Entry:
    """The engine from the cache, else built in a child process, which does not outlive this one, and stored.

    on_step: called four times a second. stopped: ends the build, which then raises BackendError.
    Raises UnfitEngineError if the builder refuses, which it would do again, else SapnetError.
    """
    kind = f"{type(request).__module__}:{type(request).__name__}"
    # The module `tethered` has the kernel end the child with its parent, however that dies.
    command = [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), __name__, kind]
    with (
        NamedTemporaryFile() as output,
        subprocess.Popen(
            [*command, json.dumps(asdict(request)), str(cache.folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it only through us
        ) as child,
    ):
        try:
            ended = False
            while not ended and not stopped.wait(_POLL_S):
                ended = child.poll() is not None
                said = _read_output(output.name)
                on_step(said["step"], said["share"])
        finally:
            child.kill()
    if stopped.is_set():
        raise BackendError(f"the build of the engine for {request.shape} was stopped")
    if child.returncode < 0:
        raise BackendError(
            f"the build of the engine for {request.shape} was ended by signal {-child.returncode}; "
            "9 may mean out of memory"
        )
    if child.returncode:
        raise (UnfitEngineError if said["unfit"] else BackendError)(said["error"] or said["printed"])
    if (entry := cache.load(request.key())) is None:
        raise BackendError(f"the engine for {request.shape} was built, but is not in {cache.folder}; check its rights")
    return entry


def _read_output(path: str) -> dict[str, Any]:
    """The child's latest step and error, and the last line printed by others, which says most of a crash."""
    said = {"step": "starting", "share": 0.0, "error": "", "unfit": False, "printed": "the build ended without a word"}
    *lines, _ = Path(path).read_text(errors="replace").split("\n")  # the last one may be incomplete
    for line in filter(None, map(str.strip, lines)):
        said |= json.loads(line.removeprefix(_EVENT)) if line.startswith(_EVENT) else {"printed": line}
    return said


class EngineBackend(Backend):
    """A backend whose runners are engines, loaded from the cache or built in a child process, one at a time.

    An engine that is in the cache does not wait for the build of another. Closing stops a build under way.
    """

    # What else it depends on whether an engine is fit. One that is built here and unfit is not built again there.
    _place: Key

    def __init__(self, spec: BackendSpec) -> None:
        super().__init__(spec)
        self._place = {}
        self._cache = EngineCache(spec.cache_dir)
        self._building = threading.Lock()

    @abstractmethod
    def _requests(self, shape: EngineShape) -> Sequence[BuildRequest]:
        """What an engine of a shape may be: the one to be built first, then those built elsewhere that do too."""

    @abstractmethod
    def _load(self, entry: Entry, shape: EngineShape) -> Runner:
        """Make a cache's entry run.

        Raises UnfitEngineError, for which the entry is built again, or BackendError, for which it is kept.
        """

    def _make(self, shape: EngineShape) -> Runner:
        requests = self._requests(shape)
        for request in requests:
            if (entry := self._cache.load(request.key())) is not None:
                try:
                    return self._load(entry, shape)
                except UnfitEngineError as err:
                    log.warning("the engine for %s in %s cannot be used: %s", shape, self._cache.folder, err)
                    self._cache.remove(request.key())
        with self._building:
            return self._build(requests[0], shape)

    def _build(self, request: BuildRequest, shape: EngineShape) -> Runner:
        # Kept beyond this process: otherwise each start would build the same engine, for minutes.
        verdict = {**request.key(), "kind": "verdict", **self._place}
        if (unfit := self._cache.load(verdict)) is not None:
            reason = unfit.about["reason"]
            raise BackendError(f"{reason}; it is not built again, unless `sapnet compile --clear` forgets this")
        try:
            entry = build_in_child(request, self._cache, watch_build(shape, self._spec.on_build), self._closed)
            return self._load(entry, shape)
        except UnfitEngineError as err:
            self._cache.try_store(verdict, b"", {"reason": str(err)})
            self._cache.remove(request.key())
            raise
        except OSError as err:  # no folder for temporary files, or no memory for another process
            raise BackendError(f"the build of the engine for {shape} cannot be started: {err}") from err


def main() -> int:
    """The child process."""
    kind, request, folder = sys.argv[1:]
    values = json.loads(request)
    try:
        wanted = resolve_name(kind)(**{**values, "shape": EngineShape(*values["shape"])})
        wanted.get_or_build(EngineCache(folder), lambda step, share: _say(step=step, share=share))
    except SapnetError as err:
        _say(error=str(err), unfit=isinstance(err, UnfitEngineError))
        return 1
    return 0


def _say(**event: Any) -> None:
    # A library may have printed an incomplete line.
    print(f"\n{_EVENT}{json.dumps(event)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
