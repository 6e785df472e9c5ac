"""TensorRT and TensorRT-RTX: the network as an engine for each frame size, which is built once and kept on disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sapnet.backends import devices as gpu
from sapnet.backends.base import BackendSpec, Frames
from sapnet.backends.engines import build_rtx as tensorrt_rtx
from sapnet.backends.engines import build_torch as tensorrt_torch
from sapnet.backends.engines.build import RTX, TENSORRT, BuildRequest
from sapnet.backends.engines.cache import EngineCache, Entry, read_entry
from sapnet.backends.engines.key import EngineShape, bytes_digest, model_code_version
from sapnet.backends.engines.proof import prove
from sapnet.backends.engines.runner import EngineRunner
from sapnet.backends.engines.shelf import EngineShelf
from sapnet.backends.network import load_deploy_network
from sapnet.errors import BackendError, EngineCacheError, SapnetError, first_line

log = logging.getLogger("sapnet")


def create(spec: BackendSpec) -> TensorRtBackend:
    """The engines of ``spec`` on its GPU. Raises BackendError, CheckpointError, EngineCacheError."""
    return TensorRtBackend(spec)


def load_flavour() -> tuple[str, Any]:
    """TENSORRT, else RTX, whichever can be used here, and its module. Raises BackendError where neither can.

    torch-tensorrt builds TensorRT's engines; its variant for RTX has the same name, but not ``tensorrt`` beside it.
    """
    libraries = (
        (TENSORRT, ("tensorrt", "torch_tensorrt"), tensorrt_torch.load_library),
        (RTX, ("tensorrt_rtx",), tensorrt_rtx.load_library),
    )
    unusable: list[str] = []
    for flavour, modules, load in libraries:
        if all(map(_is_installed, modules)):
            try:
                library = load()
            except BackendError as err:
                unusable.append(str(err))
                continue
            if unusable:
                log.warning("TensorRT-RTX runs the engines, TensorRT cannot: %s", unusable[0])
            return flavour, library
    if unusable:
        raise BackendError("; ".join(unusable))
    raise BackendError(
        f"neither TensorRT-RTX nor torch-tensorrt with TensorRT is installed; on a PC with an RTX GPU: "
        f"{tensorrt_rtx.INSTALL}; on a Jetson: requirements/jetson.txt"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # it is loaded, by one who has taken its name for another
        return True


class TensorRtBackend:
    """Engines from the cache, from ``spec.engine``, or built in a child process on first use of a size."""

    name = "tensorrt"

    def __init__(self, spec: BackendSpec) -> None:
        self._flavour, self._trt = load_flavour()
        try:
            self._gpu = gpu.find_device("cuda" if spec.device == "auto" else spec.device)
        except BackendError as err:
            raise BackendError(f"backend 'tensorrt' cannot run: {err}") from err
        if self._gpu.type == "cpu":
            raise BackendError("backend 'tensorrt' runs on a GPU, got device 'cpu'; use 'openvino' or 'torch' there")
        self._capability = torch.cuda.get_device_capability(self._gpu)
        self.device = torch.cuda.get_device_name(self._gpu)
        given = read_entry(Path(spec.engine)) if spec.engine else None
        precision = given.key.get("precision", "fp16") if given else "fp16"
        self.precision = precision if spec.precision == "auto" else spec.precision
        if self.precision == "bf16" and self._capability < (8, 0):
            raise BackendError(f"got precision bf16, which {self.device} has no arithmetic for; use fp16 or fp32")
        self._spec = spec
        network = load_deploy_network(spec)
        self.stages = network.network.config.stages
        self._cache = EngineCache(spec.cache_dir)
        self._shelf = EngineShelf(spec, self._cache, self._requests, self._load, gpu.place(self._gpu))
        if given:
            shape = self._shape_of_given(given)
            self._shelf.put(shape, self._load(given, shape))

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Whether an engine for such frames is loaded."""
        return self._shelf.get(batch, height, width) is not None

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Load the engine for such frames, or build it, which takes up to minutes. Raises BackendError."""
        self._shelf.prepare(batch, height, width)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Derain uint8 (B, H, W, 3) BGR: the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        shape = frames.shape[:3]
        return (self._shelf.get(*shape) or self._shelf.prepare(*shape)).infer(frames)

    def close(self) -> None:
        """Free the engines; a build under way is stopped."""
        self._shelf.close()

    def _requests(self, shape: EngineShape) -> list[BuildRequest]:
        """What serves here: built for this GPU, and of RTX also what was built to be portable."""
        request = BuildRequest(
            weights=self._spec.weights,
            shape=shape,
            flavour=self._flavour,
            precision=self.precision,
            stages=self.stages,
            device=str(self._gpu),
        )
        if self._flavour == TENSORRT:
            return [request]
        targets = [tensorrt_rtx.own_target(self._capability)]
        if self._capability in tensorrt_rtx.PORTABLE_ON:
            targets.append(tensorrt_rtx.PORTABLE)
        return [replace(request, target=target) for target in targets]

    def _load(self, entry: Entry, shape: EngineShape) -> EngineRunner:
        with gpu.PREPARING:
            try:
                runner = EngineRunner(self._trt, entry, shape, self._gpu, self._cache)
                try:
                    self._require_proof(runner, entry, shape)
                except BaseException:
                    runner.close()
                    raise
                finally:
                    torch.cuda.empty_cache()
            except SapnetError:
                raise
            # Memory that runs out above all, and what the libraries raise of their own.
            except Exception as err:
                raise BackendError(
                    f"the engine for {shape} cannot be made ready: {type(err).__name__}: {first_line(err)}"
                ) from err
        return runner

    def _require_proof(self, runner: EngineRunner, entry: Entry, shape: EngineShape) -> None:
        """Prove an engine, once for each GPU and driver that run it."""
        engine = {"engine": bytes_digest(entry.data), "code": model_code_version()}
        key = {"kind": "proof", **engine, **gpu.place(self._gpu)}
        if self._cache.load(key) is not None:
            return
        agreement = prove(runner.infer, load_deploy_network(self._spec), shape, self.precision, self._gpu)
        try:
            self._cache.store(key, b"", {"agreement_db": agreement})
        except EngineCacheError as err:
            log.warning("the engine's proof is not kept, each start repeats it: %s", err)

    def _shape_of_given(self, given: Entry) -> EngineShape:
        """Refuse an engine file that was not built for what is to run here."""
        ours = self._requests(EngineShape(16, 16))[0].key()
        for name, wanted in ours.items():
            # TensorRT-RTX says itself which targets run here.
            if name not in ("shape", "target") and (got := given.key.get(name)) != wanted:
                raise BackendError(
                    f"{given.path}: built for {name} {got!r}, but {wanted!r} is needed here; "
                    "build it again with `sapnet compile` of this version and the same options"
                )
        shape: Any = given.key["shape"]
        return EngineShape(*shape)
