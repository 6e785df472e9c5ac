"""Makes a built engine run: of TensorRT or TensorRT-RTX, whose Python interfaces are the same for most of this."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from sapnet.backends import devices as gpu
from sapnet.backends.cuda_runner import CudaRunner
from sapnet.backends.engines.build import RTX
from sapnet.backends.engines.build_rtx import shared_logger
from sapnet.backends.engines.cache import EngineCache, Entry
from sapnet.backends.engines.key import EngineShape, UnfitEngineError, bytes_digest
from sapnet.errors import BackendError, EngineCacheError

# How it is said that others are to blame: diagnostics of TensorRT-RTX, and errors such as "Cuda Runtime (cudaError 35".
_NOT_ITS_FAULT = (
    "out of memory",
    "outofmemory",
    "gpu memory",
    "cuda runtime",
    "cuda error",
    "cudaerror",
    "cuda driver",
)

log = logging.getLogger("sapnet")


class EngineRunner:
    """An engine on a GPU, ready for every batch size; whoever makes one holds gpu.PREPARING.

    Raises UnfitEngineError for one that TensorRT does not take here, with its reasons, BackendError where the GPU or
    its driver are to blame.
    """

    def __init__(self, trt: Any, entry: Entry, shape: EngineShape, device: torch.device, cache: EngineCache) -> None:
        self._trt = trt
        self._logger = shared_logger(trt)
        self._logger.take_error()  # of another engine
        self._rtx = entry.key["flavour"] == RTX
        self._cache = cache
        self._kernels_key = {"kind": "kernels", "engine": bytes_digest(entry.data), **gpu.place(device)}
        self._kernels: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._config: Any = None
        # One for each batch size: a captured graph holds on to the state of its context.
        self._contexts: dict[int, Any] = {}
        self._runner = CudaRunner(device, shape, self._enqueue, use_graphs=not self._rtx)
        try:
            with torch.cuda.device(device):
                self._load(entry.data)
            self._runner.warm_up()
            if self._rtx:
                self._store_kernels()
        except BaseException:
            self.close()
            raise
        self.infer = self._runner.infer

    def close(self) -> None:
        """Free the engine, after a call under way."""
        self._runner.close()
        self._contexts.clear()
        self._config = self._kernels = self._engine = self._runtime = None

    def _load(self, data: bytes) -> None:
        self._runtime = self._trt.Runtime(self._logger)
        if self._rtx:
            self._require_valid(data)
        engine = self._engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            said = self._logger.take_error()
            raise _refusal(f"TensorRT does not take the engine: {said}")
        self._name_tensors(engine)
        if self._rtx:
            self._config = self._make_runtime_config()

    def _name_tensors(self, engine: Any) -> None:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        # The derained frames have a dimension more than the streaks.
        outputs = [name for name in names if name not in self._inputs]
        self._outputs = sorted(outputs, key=lambda name: -len(engine.get_tensor_shape(name)))

    def _require_valid(self, engine: bytes) -> None:
        """Ask TensorRT-RTX what it thinks of an engine on this GPU with this driver."""
        validity, reasons = self._runtime.get_engine_validity(engine)
        if validity == self._trt.EngineValidity.VALID:
            return
        known = self._trt.EngineInvalidityDiagnostics.__members__
        named = [name for name, bit in known.items() if int(reasons) & int(bit)]
        said = ", ".join(name.lower().replace("_", " ") for name in named) or self._logger.take_error()
        if validity == self._trt.EngineValidity.INVALID:
            raise _refusal(f"TensorRT-RTX calls the engine invalid on this machine: {said}")
        log.warning("TensorRT-RTX calls the engine suboptimal on this GPU (%s): build it here for full speed", said)

    def _make_runtime_config(self) -> Any:
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Lazy swaps kernels while frames run.
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._kernels = config.create_runtime_cache()
        if (stored := self._cache.load(self._kernels_key)) is not None:
            self._kernels.deserialize(stored.data)  # says False for kernels of another driver, and then has none
        config.set_runtime_cache(self._kernels)
        return config

    def _context(self, batch: int) -> Any:
        if batch not in self._contexts:
            config = (self._config,) if self._rtx else ()
            context = self._engine.create_execution_context(*config)
            if context is None:
                raise RuntimeError(f"TensorRT has no context for another batch size: {self._logger.take_error()}")
            self._contexts[batch] = context
        return self._contexts[batch]

    def _store_kernels(self) -> None:
        """Keep what was compiled for this GPU, else every start compiles it again."""
        stored = self._cache.load(self._kernels_key)
        kernels = bytes(self._kernels.serialize())
        if stored is not None and stored.data == kernels:
            return
        try:
            self._cache.store(self._kernels_key, kernels, {})
        except EngineCacheError as err:
            log.warning("the engine's kernels are not kept, each start compiles them anew: %s", err)

    def _enqueue(self, frames: Tensor, derained: Tensor, streaks: Tensor) -> None:
        context = self._context(len(frames))
        context.set_input_shape(*self._inputs, tuple(frames.shape))
        for name, tensor in zip((*self._inputs, *self._outputs), (frames, derained, streaks), strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError(f"TensorRT could not enqueue the engine: {self._logger.take_error()}")


def _refusal(said: str) -> BackendError:
    """The error for an engine that TensorRT refuses, which is unfit unless something else is to blame."""
    others = any(words in said.lower() for words in _NOT_ITS_FAULT)
    return BackendError(said) if others else UnfitEngineError(said)
