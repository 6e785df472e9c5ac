"""Builds engines: here, or in a child process that cannot disturb the frames that go on meanwhile."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import getpid
from types import MappingProxyType
from typing import Any

import sapnet
from sapnet.backends.engines.cache import EngineCache, Entry
from sapnet.backends.engines.key import EngineShape, Key, OnProgress, Progress, file_digest, model_code_version
from sapnet.errors import BackendError

RTX, TENSORRT, FAKE = "rtx", "tensorrt", "fake"
_ERROR = "sapnet: error: "  # how the command line says why it ends
_POLL_S = 0.5
_END_S = 5.0
# Shares of a whole build, by what was measured: the export is Python and takes longest.
_EXPORTED, _BUILT = 0.6, 0.95


@dataclass(frozen=True)
class BuildRequest:
    """What an engine is wanted for.

    flavour: RTX, TENSORRT or FAKE. target: one of ``tensorrt_rtx.TARGETS``, of RTX alone.
    device: the GPU that TENSORRT builds on and for. options: of FAKE alone.
    """

    weights: str
    shape: EngineShape
    flavour: str
    precision: str = "fp16"
    stages: int = 0
    target: str = ""
    device: str = "cuda:0"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def key(self) -> Key:
        """Of the cache's entry: equal keys give equal engines. Raises SapnetError."""
        shape = [self.shape.height, self.shape.width, self.shape.max_batch]
        key = {"kind": "engine", "flavour": self.flavour, "shape": shape, "precision": self.precision}
        return {**key, "stages": self.stages, **self._origin(), "flags": {"tf32": False}}

    def made_of(self) -> Key:
        """The network behind the engine. Raises CheckpointError."""
        from sapnet.model.weights import find_weights

        return {"weights": file_digest(find_weights(self.weights)), "code": model_code_version()}

    def _origin(self) -> Key:
        if self.flavour == FAKE:
            return {"weights": self.weights, "options": dict(self.options), "version": sapnet.__version__}
        made_of = self.made_of()
        if self.flavour == RTX:
            from sapnet.backends.engines import build_rtx as tensorrt_rtx

            return {**made_of, "version": tensorrt_rtx.version(), "target": self.target}
        import torch

        from sapnet.backends import devices as gpu
        from sapnet.backends.engines import build_torch as tensorrt_torch

        device = torch.device(self.device)
        built_on = {
            "gpu": torch.cuda.get_device_name(device),
            "capability": list(torch.cuda.get_device_capability(device)),
        }
        return {**made_of, "version": tensorrt_torch.version(), **built_on, "driver": gpu.driver_version()}


def build(request: BuildRequest, cache: EngineCache, on_progress: OnProgress) -> tuple[bytes, dict[str, Any]]:
    """The engine, built in this process, and what is worth knowing of it: ``seconds``. Raises SapnetError."""
    began = time.monotonic()
    builders = {RTX: _build_rtx, TENSORRT: _build_tensorrt, FAKE: _build_fake}
    engine = builders[request.flavour](request, cache, on_progress)
    on_progress(Progress("built", _BUILT))
    return engine, {"seconds": round(time.monotonic() - began, 1), "sapnet": sapnet.__version__}


def _build_rtx(request: BuildRequest, cache: EngineCache, on_progress: OnProgress) -> bytes:
    from sapnet.backends.engines import build_rtx as tensorrt_rtx

    tensorrt_rtx.require_target(request.target, request.precision)
    on_progress(Progress("exporting the network", 0.0))
    model = _onnx(request, cache)

    def within(progress: Progress) -> None:
        on_progress(Progress(progress.step, _EXPORTED + (_BUILT - _EXPORTED) * progress.share))

    return tensorrt_rtx.build(model, request.shape, request.precision, request.target, within)


def _onnx(request: BuildRequest, cache: EngineCache) -> bytes:
    """The exported network, which serves all shapes and targets: from the cache, else stored there."""
    import torch

    from sapnet.backends.engines.onnx_export import export_onnx

    key = {
        "kind": "onnx",
        **request.made_of(),
        "stages": request.stages,
        "precision": request.precision,
        "torch": torch.__version__,
    }
    return cache.get_or_build(key, lambda: (export_onnx(_network(request), request.precision), {})).data


def _build_tensorrt(request: BuildRequest, cache: EngineCache, on_progress: OnProgress) -> bytes:
    from sapnet.backends.engines import build_torch as tensorrt_torch

    folder = cache.folder / "torch_tensorrt"
    network, shape = _network(request), request.shape
    return tensorrt_torch.build(network, shape, request.precision, folder, on_progress, request.device)


def _network(request: BuildRequest) -> Any:
    from sapnet.backends.base import BackendSpec
    from sapnet.backends.network import load_deploy_network

    return load_deploy_network(BackendSpec(weights=request.weights, stages=request.stages))


def _build_fake(request: BuildRequest, cache: EngineCache, on_progress: OnProgress) -> bytes:
    """Nothing, for as long as is asked for."""
    steps = 20
    for step in range(steps):
        on_progress(Progress("building", step / steps))
        time.sleep(request.options["build_s"] / steps)
    if request.options["mode"] == "build_fails":
        raise BackendError("fake failure: the engine cannot be built")
    return f"fake engine for {request.shape}".encode()


def build_in_child(
    request: BuildRequest,
    cache: EngineCache,
    on_progress: Callable[[Progress, float], None],
    stopped: threading.Event,
) -> Entry:
    """Have ``sapnet compile`` build the engine into the cache, where two who want the same wait for one build.

    on_progress: gets every half second how far it is and the seconds it has taken. stopped: ends the build, which
    then raises BackendError. The child does not outlive this process. Raises SapnetError.
    """
    began = time.monotonic()
    module = [sys.executable, "-m", "sapnet.tethered", str(getpid()), "sapnet"]
    arguments = ["compile", "--json", "--cache-dir", str(cache.folder), "--request", json.dumps(to_json(request))]
    with subprocess.Popen(
        [*module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it only through us
    ) as child:
        try:
            errors = _follow(child, lambda progress: on_progress(progress, time.monotonic() - began), stopped)
        finally:
            _end(child, stopped.is_set())
    if stopped.is_set():
        raise BackendError(f"the build of the engine for {request.shape} was stopped")
    if child.returncode:
        raise BackendError(_why(child.returncode, errors, request))
    if (entry := cache.load(request.key())) is None:
        raise BackendError(
            f"the engine for {request.shape} was built, but is not in {cache.folder}; look at its rights"
        )
    return entry


def _follow(child: subprocess.Popen[str], on_progress: OnProgress, stopped: threading.Event) -> list[str]:
    """Pass on what the child says until it ends; its lines on stderr."""
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    errors: list[str] = []

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            said.put(line)
        said.put(None)

    def read_errors() -> None:
        assert child.stderr is not None
        errors.extend(child.stderr)

    readers = [threading.Thread(target=target, name="engine build", daemon=True) for target in (read, read_errors)]
    for reader in readers:
        reader.start()
    progress = Progress("starting", 0.0)
    while not stopped.is_set():
        try:
            line = said.get(timeout=_POLL_S)
        except queue.Empty:
            on_progress(progress)
            continue
        if line is None:
            break
        if (told := _parse(line)) is not None:
            progress = told
            on_progress(progress)
    if not stopped.is_set():
        readers[1].join()
    return errors


def _parse(line: str) -> Progress | None:
    """The progress that a line tells of, if it is the child's own: libraries may print there too."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    match event:
        case {"step": str(step), "share": int() | float() as share}:
            return Progress(step, share)
    return None


def _end(child: subprocess.Popen[str], stopped: bool) -> None:
    """Have it go: where it has said all, it is about to."""
    if stopped:
        child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _why(status: int, errors: list[str], request: BuildRequest) -> str:
    if status < 0:
        return f"the build of the engine for {request.shape} was ended by signal {-status}; 9 may mean out of memory"
    lines = [line.strip() for line in errors if line.strip()]
    # Libraries may have a last word when the process ends.
    ours = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return (ours or lines or [f"the build ended with status {status}"])[-1]


def to_json(request: BuildRequest) -> dict[str, Any]:
    """A request as plain values; ``from_json`` is the inverse."""
    shape = request.shape
    values = {
        name: getattr(request, name) for name in ("weights", "flavour", "precision", "stages", "target", "device")
    }
    return {**values, "shape": [shape.height, shape.width, shape.max_batch], "options": dict(request.options)}


def from_json(values: Mapping[str, Any]) -> BuildRequest:
    """A request from the values of ``to_json``."""
    return BuildRequest(**{**values, "shape": EngineShape(*values["shape"])})
