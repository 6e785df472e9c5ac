"""TensorRT and TensorRT-RTX: the network as an engine for each frame size, built once and kept on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from sapnet.backends import devices
from sapnet.backends.base import BackendSpec, EngineShape, Frames
from sapnet.backends.engines.backend import EngineBackend
from sapnet.backends.engines.build_onnx import (
    PORTABLE,
    PORTABLE_ON,
    RTX,
    RTX_SUPPORTS,
    TENSORRT,
    OnnxRequest,
    load_library,
    model_code_version,
)
from sapnet.backends.engines.cache import Entry, read_entry
from sapnet.backends.engines.runner import EngineRunner, prove
from sapnet.errors import BackendError, first_line
from sapnet.model.deploy import load_deploy_network

log = logging.getLogger("sapnet")


def choose_library() -> Any:
    """The module of TensorRT, else of TensorRT-RTX, whichever can be used here. Raises BackendError if neither can."""
    try:
        return load_library(TENSORRT)
    except BackendError as err:
        missing = err
    try:
        library = load_library(RTX)
    except BackendError as err:
        raise BackendError(f"{missing}; {err}") from err
    if not isinstance(missing.__cause__, ModuleNotFoundError):
        log.warning("%s builds and runs the engines: %s", RTX, missing)
    return library


def require_capability(capability: tuple[int, int], device: str) -> None:
    """Raise BackendError for a GPU that TensorRT-RTX does not support."""
    if capability not in RTX_SUPPORTS:
        known = ", ".join(f"{major}.{minor}" for major, minor in RTX_SUPPORTS)
        raise BackendError(
            f"TensorRT-RTX does not support the compute capability {capability[0]}.{capability[1]} of {device}, "
            f"expected {known}; use backend 'torch', or TensorRT where it is installed"
        )


class TensorRtBackend(EngineBackend[EngineRunner]):
    """Engines from the cache, from ``spec.engine``, or built in a child process on first use of a size.

    Raises BackendError, CheckpointError, EngineCacheError.
    """

    name = "tensorrt"

    def __init__(self, spec: BackendSpec) -> None:
        self._trt = choose_library()
        try:
            self._gpu = devices.find_device("cuda" if spec.device == "auto" else spec.device)
        except BackendError as err:
            raise BackendError(f"backend 'tensorrt' cannot run: {err}") from err
        if self._gpu.type == "cpu":
            raise BackendError("backend 'tensorrt' runs on a GPU, got device 'cpu'; use 'openvino' or 'torch' there")
        self._capability = torch.cuda.get_device_capability(self._gpu)
        self.device = torch.cuda.get_device_name(self._gpu)
        if self._trt.__name__ == RTX:
            require_capability(self._capability, self.device)
        given = read_entry(Path(spec.engine)) if spec.engine else None
        precision = given.key.get("precision", "fp16") if given else "fp16"
        self.precision = precision if spec.precision == "auto" else spec.precision
        if self.precision == "bf16" and self._capability < (8, 0):
            raise BackendError(f"got precision bf16, which {self.device} has no arithmetic for; use fp16 or fp32")
        super().__init__(spec, devices.place(self._gpu))
        network = load_deploy_network(spec.weights, spec.stages)
        self.stages = network.network.config.stages
        if given:
            self._put(self._load(given, self._shape_of_given(given)))

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Derain uint8 (B, H, W, 3) BGR: the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        batch, height, width, _ = frames.shape
        return self._get(batch, height, width).infer(frames)

    def _requests(self, shape: EngineShape) -> list[OnnxRequest]:
        """What serves here: built for this GPU, and of TensorRT-RTX also what was built to be portable."""
        asked = self._spec.weights, shape, self.precision, self.stages
        if self._trt.__name__ == TENSORRT:
            return [OnnxRequest(*asked, TENSORRT, device=str(self._gpu))]
        major, minor = self._capability
        targets = [f"sm{major}{minor}", *([PORTABLE] if self._capability in PORTABLE_ON else [])]
        return [OnnxRequest(*asked, RTX, target) for target in targets]

    def _load(self, entry: Entry, shape: EngineShape) -> EngineRunner:
        with devices.PREPARING:
            try:
                runner = EngineRunner(self._trt, entry, shape, self._gpu, self._cache)
                try:
                    self._require_proof(runner, entry, shape)
                except BaseException:
                    runner.close()
                    raise
                finally:
                    torch.cuda.empty_cache()
            # Mostly memory that runs out; the bindings raise RuntimeError and TypeError.
            except (RuntimeError, TypeError, MemoryError) as err:
                raise BackendError(f"the engine for {shape} cannot be made ready: {first_line(err)}") from err
        return runner

    def _require_proof(self, runner: EngineRunner, entry: Entry, shape: EngineShape) -> None:
        """Prove an engine, once for each GPU and driver that run it."""
        engine = {"engine": entry.sha256, "code": model_code_version()}
        key = {"kind": "proof", **engine, **self._place}
        if self._cache.load(key) is not None:
            return
        network = load_deploy_network(self._spec.weights, self._spec.stages)
        agreement = prove(runner.infer, network, shape, self.precision, self._gpu)
        self._cache.try_store(key, b"", {"agreement_db": agreement})

    def _shape_of_given(self, given: Entry) -> EngineShape:
        """Refuse an engine file that was not built for what is to run here."""
        ours = self._requests(EngineShape(16, 16))[0].key()
        for name, wanted in ours.items():
            # TensorRT-RTX checks the target itself.
            if name not in ("shape", "target") and (got := given.key.get(name)) != wanted:
                raise BackendError(
                    f"{given.path}: built for {name} {got!r}, but {wanted!r} is needed here; "
                    "build it again with `sapnet compile` of this version and the same options"
                )
        shape: Any = given.key["shape"]
        return EngineShape(*shape)
