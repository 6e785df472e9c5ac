"""TensorRT and TensorRT-RTX: the network as an engine for each frame size, which is built once and kept on disk."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sapnet.backends import gpu, tensorrt_rtx
from sapnet.backends.base import BackendSpec, Frames
from sapnet.backends.engine import EngineShape, file_digest
from sapnet.backends.engine_build import RTX, TENSORRT, BuildRequest
from sapnet.backends.engine_cache import EngineCache, Entry, read_entry
from sapnet.backends.engine_shelf import EngineShelf
from sapnet.backends.network import load_deploy_network
from sapnet.backends.tensorrt_proof import prove
from sapnet.backends.tensorrt_runner import EngineRunner
from sapnet.errors import BackendError
from sapnet.model.weights import find_weights

_MODULES = {RTX: "tensorrt_rtx", TENSORRT: "tensorrt"}


def create(spec: BackendSpec) -> TensorRtBackend:
    """The engines of ``spec`` on its GPU. Raises BackendError, CheckpointError, EngineCacheError."""
    return TensorRtBackend(spec)


def installed_flavour() -> str:
    """RTX or TENSORRT, which is preferred where both are. Raises BackendError where neither is.

    torch-tensorrt builds TensorRT's engines; its variant for RTX has the same name, but not ``tensorrt`` beside it.
    """
    if find_spec("tensorrt") is not None and find_spec("torch_tensorrt") is not None:
        return TENSORRT
    if find_spec("tensorrt_rtx") is not None:
        return RTX
    raise BackendError(
        f"neither TensorRT-RTX nor torch-tensorrt with TensorRT is installed; on a PC with an RTX GPU: "
        f"{tensorrt_rtx.INSTALL}; on a Jetson: requirements/jetson.txt"
    )


class TensorRtBackend:
    """Engines from the cache, from ``spec.engine``, or built in a child process on first use of a size."""

    name = "tensorrt"

    def __init__(self, spec: BackendSpec) -> None:
        self._flavour = installed_flavour()
        try:
            self._gpu = gpu.find_device("cuda" if spec.device == "auto" else spec.device)
        except BackendError as err:
            raise BackendError(f"backend 'tensorrt' cannot run: {err}") from err
        if self._gpu.type == "cpu":
            raise BackendError("backend 'tensorrt' runs on a GPU, got device 'cpu'; use 'openvino' or 'torch' there")
        self._capability = torch.cuda.get_device_capability(self._gpu)
        self.device = torch.cuda.get_device_name(self._gpu)
        self._trt = import_module(_MODULES[self._flavour])
        given = read_entry(Path(spec.engine)) if spec.engine else None
        precision = given.key.get("precision", "fp16") if given else "fp16"
        self.precision = precision if spec.precision == "auto" else spec.precision
        if self.precision == "bf16" and self._capability < (8, 0):
            raise BackendError(f"got precision bf16, which {self.device} has no arithmetic for; use fp16 or fp32")
        self._spec = spec
        network = load_deploy_network(spec)
        self.stages = network.network.config.stages
        self._cache = EngineCache(spec.cache_dir)
        self._shelf = EngineShelf(spec, self._cache, self._requests, self._load)
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
        runner = EngineRunner(self._trt, entry, shape, self._gpu, self._cache)
        if "agreement_db" not in entry.about:
            try:
                agreement = prove(runner.infer, load_deploy_network(self._spec), shape, self.precision, self._gpu)
            except BackendError:
                runner.close()
                raise
            finally:
                torch.cuda.empty_cache()
            if entry.path.parent == self._cache.folder:
                self._cache.store(entry.key, entry.data, {**entry.about, "agreement_db": agreement})
        return runner

    def _shape_of_given(self, given: Entry) -> EngineShape:
        """Refuse an engine file that was not built for these weights, stages, precision and TensorRT."""
        ours = {
            "flavour": self._flavour,
            "weights": file_digest(find_weights(self._spec.weights)),
            "stages": self.stages,
            "precision": self.precision,
            "version": self._requests(EngineShape(16, 16))[0].key()["version"],
        }
        for name, wanted in ours.items():
            if (got := given.key.get(name)) != wanted:
                raise BackendError(
                    f"{given.path}: built for {name} {got!r}, but {wanted!r} is needed here; "
                    "build it again with `sapnet compile` of this version and the same options"
                )
        shape: Any = given.key["shape"]
        return EngineShape(*shape)
