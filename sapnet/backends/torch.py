"""Eager torch on a CPU or an NVIDIA GPU. On a GPU, fp32 convolutions use TF32 as is torch's default."""

from __future__ import annotations

import numpy as np
import torch

from sapnet.backends.base import BackendSpec, Frames
from sapnet.backends.network import load_deploy_network
from sapnet.backends.processor import has_bf16, processor_name
from sapnet.errors import BackendError
from sapnet.model import DeployNet

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def create(spec: BackendSpec) -> TorchBackend:
    """The network of ``spec`` on its device. Raises BackendError, CheckpointError."""
    return TorchBackend(spec)


class TorchBackend:
    """The deploy network run by eager torch; nothing is compiled, on a GPU the first run of a shape warms it up."""

    name = "torch"

    def __init__(self, spec: BackendSpec) -> None:
        self._device = _find_device(spec.device)
        self.device = processor_name() if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        self.precision = _default_precision(self._device) if spec.precision == "auto" else spec.precision
        network = load_deploy_network(spec)
        self.stages = network.network.config.stages
        network.network.to(_DTYPES[self.precision])
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            self._network: DeployNet | None = network.to(self._device)
        except RuntimeError as err:
            raise BackendError(f"torch cannot put the network on {self.device}: {_first_line(err)}") from err
        self._warm: set[tuple[int, int, int]] = set()

    def is_ready(self, batch: int, height: int, width: int) -> bool:
        """Always on a CPU; on a GPU once the shape was run, which loads and chooses its kernels."""
        return self._device.type == "cpu" or (batch, height, width) in self._warm

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Run the shape once where that makes the next run faster. Raises BackendError."""
        if not self.is_ready(batch, height, width):
            self.infer(np.zeros((batch, height, width, 3), np.uint8))

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        """Derain uint8 (B, H, W, 3) BGR: the derained frames and streaks, uint8 (B, H, W). Raises BackendError."""
        network = self._network
        if network is None:
            raise BackendError("this torch backend is closed; create another")
        batch, height, width, _ = frames.shape
        try:
            with torch.inference_mode():
                rainy = torch.from_numpy(np.require(frames, requirements=("C", "W"))).to(self._device)
                derained, streaks = network(rainy)
                result = derained.contiguous().cpu().numpy(), streaks.contiguous().cpu().numpy()
        except (RuntimeError, MemoryError) as err:
            raise BackendError(
                f"torch failed on {batch} frame(s) of {height}x{width} on {self.device}: {_first_line(err)}; "
                "if memory ran out, take smaller frames or fewer at once"
            ) from err
        self._warm.add((batch, height, width))
        return result

    def close(self) -> None:
        """Free the network."""
        self._network = None


def _find_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError(
            f"got device {name!r}, but torch {torch.__version__} finds no CUDA GPU; check the NVIDIA driver and "
            "install a CUDA build of torch as pytorch.org says (pip install torch), or use device 'cpu'"
        )
    device = torch.device("cuda" if name == "auto" else name)
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise BackendError(f"got device {name!r}, but this machine has {count} GPU(s), the first is cuda:0")
    return device


def _default_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "fp16"
    return "bf16" if has_bf16() else "fp32"


def _first_line(err: BaseException) -> str:
    return str(err).strip().partition("\n")[0] or type(err).__name__
