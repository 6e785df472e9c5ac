"""TensorRT and TensorRT-RTX: the network as an engine for each frame size, built once and kept on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sapnet.backends import devices
from sapnet.backends.base import BackendSpec, EngineShape, Frames
from sapnet.backends.engines import build_onnx, build_torch
from sapnet.backends.engines.build import BuildRequest
from sapnet.backends.engines.build_onnx import FLAVOURS, PORTABLE, PORTABLE_ON, RTX, TENSORRT, model_code_version
from sapnet.backends.engines.cache import EngineCache, Entry, read_entry
from sapnet.backends.engines.runner import EngineRunner, prove
from sapnet.backends.engines.shelf import EngineShelf
from sapnet.errors import BackendError, first_line
from sapnet.model.deploy import load_deploy_network

log = logging.getLogger("sapnet")


@dataclass(frozen=True)
class Library:
    """What builds and runs engines here. builder: dotted name of a module, see BuildRequest."""

    flavour: str
    trt: Any
    builder: str


def load_library() -> Library:
    """TensorRT, else TensorRT-RTX, whichever can be used here. Raises BackendError if neither can.

    torch-tensorrt builds TensorRT's engines if it can be used here; else they are built from ONNX.
    """
    choices = (
        (TENSORRT, "torch_tensorrt", build_torch.load_library, build_torch.__name__),
        (TENSORRT, "tensorrt", partial(build_onnx.load_library, TENSORRT), build_onnx.__name__),
        (RTX, "tensorrt_rtx", partial(build_onnx.load_library, RTX), build_onnx.__name__),
    )
    unusable: list[str] = []
    for flavour, needs, load, builder in choices:
        if not (_is_installed(FLAVOURS[flavour].module) and _is_installed(needs)):
            continue
        try:
            trt = load()
        except BackendError as err:
            unusable.append(str(err))
            continue
        if unusable:
            log.warning("%s builds and runs the engines: %s", FLAVOURS[flavour].module, unusable[0])
        return Library(flavour, trt, builder)
    if unusable:
        raise BackendError("; ".join(unusable))
    raise BackendError(
        f"neither TensorRT-RTX nor TensorRT is installed; on a PC with an RTX GPU: {FLAVOURS[RTX].install}; "
        f"{FLAVOURS[TENSORRT].install}"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # another package has been loaded under this name
        return True


class TensorRtBackend:
    """Engines from the cache, from ``spec.engine``, or built in a child process on first use of a size.

    Raises BackendError, CheckpointError, EngineCacheError.
    """

    name = "tensorrt"

    def __init__(self, spec: BackendSpec) -> None:
        self._library = load_library()
        try:
            self._gpu = devices.find_device("cuda" if spec.device == "auto" else spec.device)
        except BackendError as err:
            raise BackendError(f"backend 'tensorrt' cannot run: {err}") from err
        if self._gpu.type == "cpu":
            raise BackendError("backend 'tensorrt' runs on a GPU, got device 'cpu'; use 'openvino' or 'torch' there")
        self._capability = torch.cuda.get_device_capability(self._gpu)
        self.device = torch.cuda.get_device_name(self._gpu)
        build_onnx.require_capability(self._library.flavour, self._capability, self.device)
        given = read_entry(Path(spec.engine)) if spec.engine else None
        precision = given.key.get("precision", "fp16") if given else "fp16"
        self.precision = precision if spec.precision == "auto" else spec.precision
        if self.precision == "bf16" and self._capability < (8, 0):
            raise BackendError(f"got precision bf16, which {self.device} has no arithmetic for; use fp16 or fp32")
        self._spec = spec
        network = load_deploy_network(spec.weights, spec.stages)
        self.stages = network.network.config.stages
        self._cache = EngineCache(spec.cache_dir)
        self._shelf = EngineShelf(spec, self._cache, self._requests, self._load, devices.place(self._gpu))
        if given:
            shape = self._shape_of_given(given)
            self._shelf.put(self._load(given, shape))

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
        library = self._library
        made_for = {"device": str(self._gpu)} if library.flavour == TENSORRT else {}
        request = BuildRequest(
            weights=self._spec.weights,
            shape=shape,
            builder=library.builder,
            precision=self.precision,
            stages=self.stages,
            options={"flavour": library.flavour, **made_for},
        )
        if library.flavour == TENSORRT:
            return [request]
        targets = [build_onnx.own_target(self._capability)]
        if self._capability in PORTABLE_ON:
            targets.append(PORTABLE)
        return [replace(request, options={**request.options, "target": target}) for target in targets]

    def _load(self, entry: Entry, shape: EngineShape) -> EngineRunner:
        with devices.PREPARING:
            try:
                runner = EngineRunner(self._library.trt, entry, shape, self._gpu, self._cache)
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
        key = {"kind": "proof", **engine, **devices.place(self._gpu)}
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
