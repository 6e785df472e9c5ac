"""Which processor a device name means, what an engine must know of a GPU, and whose turn it is to prepare work."""

from __future__ import annotations

import ctypes
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from sapnet.backends.engines.key import Key
from sapnet.errors import BackendError, first_line

# Held, in the whole process, by who captures a CUDA graph, loads an engine or sets torch's flags for a while, which
# must not meet: a capture fails when another thread takes or frees memory. Never held while frames are run, and nobody
# closes what may be running while holding it.
PREPARING = threading.RLock()
_DRIVER = "libcuda.so.1"
# What the driver says of itself: on PCs and servers, and on Jetson, whose driver is part of the system.
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))


def find_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU; a GPU's index is always set. Raises BackendError."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError(
            f"got device {name!r}, but torch {torch.__version__} finds no CUDA GPU; check the NVIDIA driver and "
            "install a CUDA build of torch as pytorch.org says (pip install torch), or use device 'cpu'"
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as err:  # a GPU whose memory others hold, a driver that is too old
        raise BackendError(f"torch cannot use the GPU: {first_line(err)}; see who else does: nvidia-smi") from err
    index = torch.device("cuda" if name == "auto" else name).index or 0
    if index >= (count := torch.cuda.device_count()):
        raise BackendError(f"got device {name!r}, but this machine has {count} GPU(s), the first is cuda:0")
    return torch.device("cuda", index)


def driver_version() -> str:
    """All that is known of the NVIDIA driver; a change of it makes engines and their kernels worthless."""
    said = [f"CUDA {_cuda_of_driver() or 'unknown'}"]
    for path in _DRIVER_FILES:
        if path.is_file():
            said.append(path.read_text(errors="replace").strip().partition("\n")[0])
    return "; ".join(said)


def place(device: torch.device) -> Key:
    """Where engines run, as a part of a key: what holds of one on this GPU and driver need not hold on others."""
    return {"gpu": torch.cuda.get_device_name(device), "driver": driver_version()}


def without_tf32() -> AbstractContextManager[None]:
    """Have convolutions in float32 be that, in all of the process: for who holds PREPARING."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def _cuda_of_driver() -> int:
    """The newest CUDA that the driver runs, such as 13010; 0 where its library is not there or does not say."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL(_DRIVER).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value if status == 0 else 0
