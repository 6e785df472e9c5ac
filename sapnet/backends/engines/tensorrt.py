"""TensorRT and TensorRT-RTX, whose Python interfaces are nearly the same: engines loaded, proven exact, and run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from sapnet.backends import devices
from sapnet.backends.base import BackendSpec, EngineShape, Frames, failing
from sapnet.backends.cuda_runner import CudaRunner
from sapnet.backends.engines.build import EngineBackend
from sapnet.backends.engines.build_onnx import (
    PORTABLE,
    PORTABLE_ON,
    RTX,
    RTX_SUPPORTS,
    TENSORRT,
    TENSORS,
    OnnxRequest,
    load_library,
    model_code_version,
    refusal,
    shared_logger,
)
from sapnet.backends.engines.cache import EngineCache, Entry, read_entry
from sapnet.errors import BackendError, UnfitEngineError
from sapnet.images.frame import psnr
from sapnet.model.deploy import DeployNet, load_deploy_network
from sapnet.rain import RainSynthesizer

# 8-bit PSNR that an engine must reach against float32, in dB.
REQUIRED_DB = {"fp32": 65.0, "fp16": 55.0, "bf16": 48.0}

# Equal frames agree infinitely, which JSON cannot hold.
_MOST_DB = 99.0

log = logging.getLogger("sapnet")


class Engine:
    """An engine on a GPU, called with frames, derained frames and streaks there; for batches up to ``shape``'s.

    Raises UnfitEngineError if TensorRT refuses the engine here, with its reasons, BackendError if the GPU or its driver
    are to blame.
    """

    def __init__(self, trt: Any, entry: Entry, shape: EngineShape, device: torch.device, cache: EngineCache) -> None:
        self._logger = shared_logger(trt)
        self._logger.take_error()  # of another engine
        self._cache = cache
        self._kernels_key = {"kind": "kernels", "engine": entry.sha256, **devices.place(device)}
        self._stored = b""
        nothing: Any = None
        # Freed in this order: what made an object must outlive it, which the bindings do not always ensure.
        self._contexts = self._memory = self._kernels = self._config = self._engine = self._runtime = nothing
        self._runtime = trt.Runtime(self._logger)
        if is_rtx := trt.__name__ == RTX:
            self._require_valid(trt, entry.data)
        self._engine = self._runtime.deserialize_cuda_engine(entry.data)
        if self._engine is None:
            raise refusal(f"TensorRT does not take the engine: {self._logger.take_error()}")
        # What RTX takes in the runtime configuration, TensorRT takes as the argument itself.
        self._config = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if is_rtx:
            self._set_up_rtx(trt)
        # One for each batch size, as a captured graph keeps the state of its context. Calls are serial, so all contexts
        # share one buffer: each alone would take the memory of the largest batch.
        self._contexts = [self._engine.create_execution_context(self._config) for _ in range(shape.max_batch)]
        if None in self._contexts:
            raise RuntimeError(f"TensorRT has no context for another batch size: {self._logger.take_error()}")
        self._memory = torch.empty(max(self._engine.device_memory_size_v2, 1), dtype=torch.uint8, device=device)
        for context in self._contexts:
            context.set_device_memory(self._memory.data_ptr(), self._memory.numel())

    def __call__(self, frames: Tensor, derained: Tensor, streaks: Tensor) -> None:
        """Enqueue on torch's current stream what derains ``frames``; see CudaRunner."""
        context = self._contexts[len(frames) - 1]
        context.set_input_shape(TENSORS[0], tuple(frames.shape))
        for name, tensor in zip(TENSORS, (frames, derained, streaks), strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError(f"TensorRT could not enqueue the engine: {self._logger.take_error()}")

    def store_kernels(self) -> None:
        """Keep the kernels that were compiled for this GPU: otherwise every start compiles them again."""
        kernels = None if self._kernels is None else self._kernels.serialize()  # None: nothing to keep
        if kernels is not None and bytes(kernels) != self._stored:
            self._cache.try_store(self._kernels_key, bytes(kernels), {})

    def _require_valid(self, trt: Any, engine: bytes) -> None:
        """Have TensorRT-RTX check an engine against this GPU and driver."""
        validity, reasons = self._runtime.get_engine_validity(engine)
        if validity == trt.EngineValidity.VALID:
            return
        known = trt.EngineInvalidityDiagnostics.__members__
        named = [name for name, bit in known.items() if int(reasons) & int(bit)]
        said = ", ".join(name.lower().replace("_", " ") for name in named) or self._logger.take_error()
        if validity == trt.EngineValidity.INVALID:
            raise refusal(f"TensorRT-RTX calls the engine invalid on this machine: {said}")
        log.warning("TensorRT-RTX calls the engine suboptimal on this GPU (%s): build it here for full speed", said)

    def _set_up_rtx(self, trt: Any) -> None:
        """Make TensorRT-RTX's runtime configuration, with the kernels that it compiles where an engine runs."""
        config = self._config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Lazy swaps kernels while frames run.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._kernels = config.create_runtime_cache()
        if (stored := self._cache.load(self._kernels_key)) is not None:
            self._stored = stored.data
            self._kernels.deserialize(stored.data)  # returns False for kernels of another driver, and stays empty
        config.set_runtime_cache(self._kernels)


def prove(
    infer: Callable[[Frames], tuple[Frames, Frames]],
    network: DeployNet,
    shape: EngineShape,
    precision: str,
    device: torch.device,
) -> float:
    """8-bit PSNR in dB between what ``infer`` gives and the float32 network, on a full batch of different rainy frames.

    It is that of the worst frame's derained image or streaks. Raises UnfitEngineError, with the figure, for less than
    REQUIRED_DB. At most 99 dB, which equal frames give.
    """
    frames = np.stack([rainy_frame(shape, seed) for seed in range(shape.max_batch)])
    results = infer(frames)
    exact, agreement = network.to(device), _MOST_DB
    # One by one: the float32 network needs more memory than the engine.
    for index, frame in enumerate(torch.from_numpy(frames)):
        with torch.inference_mode(), devices.PREPARING, devices.without_tf32():
            expected = [result[0].cpu().numpy() for result in exact(frame[None].to(device))]
        pairs = zip(results, expected, strict=True)
        agreement = min(agreement, *(psnr(got[index], wanted) for got, wanted in pairs))
    if agreement < REQUIRED_DB[precision]:
        raise UnfitEngineError(
            f"the engine for {shape} in {precision} agrees with float32 by {agreement:.1f} dB only, "
            f"{REQUIRED_DB[precision]:g} dB are needed; use another precision, and report the versions of `sapnet info`"
        )
    return round(agreement, 1)


def rainy_frame(shape: EngineShape, seed: int) -> Frames:
    """A frame with texture under heavy rain, uint8 (H, W, 3) BGR, the same for equal shapes and seeds."""
    rng = np.random.default_rng(seed)
    size = (shape.width, shape.height)
    coarse, fine = (rng.integers(0, 160, (rows, rows, 3), np.uint8) for rows in (12, 90))
    layers = [cv2.resize(layer, size, interpolation=cv2.INTER_CUBIC) for layer in (coarse, fine)]
    clean = cv2.addWeighted(layers[0], 0.7, layers[1], 0.3, 0.0)
    rainy, _ = RainSynthesizer("heavy", shape.height, shape.width, seed).add(np.asarray(clean, np.uint8), 0)
    return rainy


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


class TensorRtBackend(EngineBackend):
    """Engines from the cache, from ``spec.engine``, or built in a child process on first use of a size.

    Raises BackendError, CheckpointError, EngineCacheError.
    """

    name = "tensorrt"

    def __init__(self, spec: BackendSpec) -> None:
        self._trt = choose_library()
        try:
            self._gpu = devices.find_device("cuda" if spec.device == "auto" else spec.device)
        except BackendError as err:  # of a device that nobody may have named
            raise BackendError(f"backend 'tensorrt' needs a GPU: {err}") from err
        if self._gpu.type == "cpu":
            raise BackendError("backend 'tensorrt' runs on a GPU, got device 'cpu'; use 'openvino' or 'torch' there")
        self._capability = torch.cuda.get_device_capability(self._gpu)
        self.device = torch.cuda.get_device_name(self._gpu)
        if self._trt.__name__ == RTX and self._capability not in RTX_SUPPORTS:
            known = ", ".join(f"{major}.{minor}" for major, minor in RTX_SUPPORTS)
            raise BackendError(
                f"TensorRT-RTX does not support the compute capability {'.'.join(map(str, self._capability))} of "
                f"{self.device}, expected {known}; use backend 'torch', or TensorRT where it is installed"
            )
        given = read_entry(spec.engine) if spec.engine else None
        precision = given.key.get("precision", "fp16") if given else "fp16"
        self.precision = precision if spec.precision == "auto" else spec.precision
        if self.precision == "bf16" and self._capability < (8, 0):
            raise BackendError(f"got precision bf16, which {self.device} has no arithmetic for; use fp16 or fp32")
        super().__init__(spec)
        self._place = devices.place(self._gpu)
        network = load_deploy_network(spec.weights, spec.stages)
        self.stages = network.network.config.stages
        if given:
            self._put(self._load(given, self._shape_of_given(given)))

    def _requests(self, shape: EngineShape) -> list[OnnxRequest]:
        """What serves here: built for this GPU, and of TensorRT-RTX also what was built to be portable."""
        asked = self._spec.weights, shape, self.precision, self.stages
        if self._trt.__name__ == TENSORRT:
            return [OnnxRequest(*asked, TENSORRT, device=str(self._gpu))]
        major, minor = self._capability
        targets = [f"sm{major}{minor}", *([PORTABLE] if self._capability in PORTABLE_ON else [])]
        return [OnnxRequest(*asked, RTX, target) for target in targets]

    def _load(self, entry: Entry, shape: EngineShape) -> CudaRunner:
        with devices.PREPARING, failing(f"the engine for {shape} cannot be made ready"), torch.cuda.device(self._gpu):
            engine = Engine(self._trt, entry, shape, self._gpu, self._cache)
            runner = CudaRunner(self._gpu, shape, engine, use_graphs=self._trt.__name__ != RTX)
            try:
                runner.warm_up()
                engine.store_kernels()
                self._require_proof(runner, entry, shape)
            except BaseException:
                runner.close()
                raise
            finally:
                del engine  # else a refused one would hold its memory until the error is dealt with
                torch.cuda.empty_cache()
            return runner

    def _require_proof(self, runner: CudaRunner, entry: Entry, shape: EngineShape) -> None:
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
        return EngineShape(*given.key["shape"])
