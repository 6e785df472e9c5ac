"""Runs a network on the GPU for frames of one size: pinned memory, a stream and CUDA graphs for every CUDA backend."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sapnet.backends import devices
from sapnet.backends.base import EngineShape, Frames, Runner, failing
from sapnet.errors import BackendError, first_line

# Libraries choose their kernels, take their memory and capture graphs of their own in the first runs.
_WARM_UP = 3

log = logging.getLogger("sapnet")

# Frames, derained frames and streaks, uint8 on the GPU: enqueues on torch's current stream what computes the others
# from the first. Called once for a batch size where CUDA graphs are captured, else for every batch.
Enqueue = Callable[[Tensor, Tensor, Tensor], None]


class CudaRunner(Runner):
    """Frames in from pinned memory, ``enqueue``, and out into pinned memory, on a stream of its own.

    All memory is allocated once, for ``shape``; only what is returned is new. One call runs at a time.
    use_graphs: capture ``enqueue`` in a CUDA graph for each batch size, at its first use. Where that fails, it runs
    uncaptured from then on, with one warning.
    Raises BackendError if the GPU runs out of memory.
    """

    def __init__(self, device: torch.device, shape: EngineShape, enqueue: Enqueue, use_graphs: bool) -> None:
        self._device = device
        self.shape = shape
        self._enqueue: Enqueue | None = enqueue
        self._use_graphs = use_graphs
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._lock = threading.Lock()
        frames = (shape.max_batch, shape.height, shape.width, 3)
        with failing(f"the GPU cannot hold {shape}"):
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # In, derained, streaks: on the GPU and in memory that it copies from and to by itself.
            sizes = (frames, frames, frames[:3])
            self._on_gpu = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
            self._pinned = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for size in sizes]

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Of uint8 (B, H, W, 3): the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        batch = len(frames)
        with self._lock:
            if self._enqueue is None:
                raise BackendError("this engine is closed; prepare its size again")
            with failing(f"the GPU failed on {batch} frame(s)"):
                np.copyto(self._pinned[0][:batch].numpy(), frames)
                with torch.inference_mode(), torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                    self._on_gpu[0][:batch].copy_(self._pinned[0][:batch], non_blocking=True)
                    self._run(batch, self._enqueue)
                    for on_gpu, pinned in zip(self._on_gpu[1:], self._pinned[1:], strict=True):
                        pinned[:batch].copy_(on_gpu[:batch], non_blocking=True)
                self._stream.synchronize()
            derained, streaks = (tensor[:batch].numpy().copy() for tensor in self._pinned[1:])
            return derained, streaks

    def warm_up(self) -> None:
        """Run every batch size until nothing is left to compile or capture, so that no frame waits for that.

        Raises BackendError, and is closed then.
        """
        shape = self.shape
        try:
            # The largest first: the others reuse its memory.
            for batch in range(shape.max_batch, 0, -1):
                for _ in range(1 if self._use_graphs else _WARM_UP):
                    self.infer(np.zeros((batch, shape.height, shape.width, 3), np.uint8))
        except BackendError:
            self.close()
            raise

    def close(self) -> None:
        """Free its memory, after a call in progress."""
        with self._lock:
            self._graphs.clear()  # first: they hold what belongs to ``enqueue``
            self._enqueue = None
            self._on_gpu.clear()
            self._pinned.clear()

    def _run(self, batch: int, enqueue: Enqueue) -> None:
        tensors = [tensor[:batch] for tensor in self._on_gpu]
        if self._use_graphs and batch not in self._graphs:
            with devices.PREPARING:
                self._capture(batch, tensors, enqueue)
        if self._use_graphs:
            self._graphs[batch].replay()
        else:
            enqueue(*tensors)

    def _capture(self, batch: int, tensors: list[Tensor], enqueue: Enqueue) -> None:
        for _ in range(_WARM_UP):
            enqueue(*tensors)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # A run leaves nothing behind in the graphs' memory, so that all share it.
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            # Other threads replay what is captured already: "global" would make their calls of CUDA fail.
            with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                enqueue(*tensors)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as err:
            log.warning("frames of %s run without CUDA graphs, which is slower: %s", self.shape, first_line(err))
            self._use_graphs = False
            self._graphs.clear()
        else:
            self._graphs[batch] = graph
