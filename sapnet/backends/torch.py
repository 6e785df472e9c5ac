"""torch without compilation: eager on a CPU, as CUDA graphs on an NVIDIA GPU, where fp32 is without TF32."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sapnet.backends import devices
from sapnet.backends.base import Backend, BackendSpec, EngineShape, Frames, failing
from sapnet.backends.cuda_runner import CudaRunner
from sapnet.model.deploy import DTYPES, Form, load_deploy_network


class TorchBackend(Backend):
    """The deploy network run by torch. Nothing is compiled; on a GPU each size has its memory and CUDA graphs.

    Raises BackendError, CheckpointError.
    """

    name = "torch"

    def __init__(self, spec: BackendSpec) -> None:
        super().__init__(spec)
        self._device = devices.find_device(spec.device)
        self.at_once = is_cpu = self._device.type == "cpu"
        self.device = devices.processor_name() if is_cpu else torch.cuda.get_device_name(self._device)
        fastest = "fp16" if not is_cpu else "bf16" if devices.has_bf16() else "fp32"
        self.precision = fastest if spec.precision == "auto" else spec.precision
        form = Form.CPU if is_cpu else Form.CUDA
        network = load_deploy_network(spec.weights, spec.stages, form)
        self.stages = network.network.config.stages
        network.network.to(DTYPES[self.precision])
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with failing(f"torch cannot put the network on {self.device}"):
            self._network = network.to(self._device)

    def forget(self, height: int, width: int) -> None:
        """Free what a GPU holds for frames of this size."""
        super().forget(height, width)
        with devices.PREPARING:
            torch.cuda.empty_cache()

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Derain uint8 (B, H, W, 3) BGR: the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        if not self.at_once:
            return super().infer(frames)
        self._require_open()
        batch, height, width, _ = frames.shape
        what = f"torch failed on {batch} frame(s) of {height}x{width} on {self.device}"
        with failing(f"{what}; if memory ran out, take smaller frames or fewer at once"), torch.inference_mode():
            derained, streaks = self._network(torch.from_numpy(np.require(frames, requirements=("C", "W"))))
            return derained.contiguous().numpy(), streaks.contiguous().numpy()

    def _make(self, shape: EngineShape) -> CudaRunner:
        def enqueue(frames: Tensor, derained: Tensor, streaks: Tensor) -> None:
            with devices.without_tf32():
                for result, output in zip(self._network(frames), (derained, streaks), strict=True):
                    output.copy_(result)

        with devices.PREPARING:
            runner = CudaRunner(self._device, shape, enqueue, use_graphs=True)
            runner.warm_up()
        return runner
