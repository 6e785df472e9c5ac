"""The processors that backends run on: names, features, the GPU's driver, and the lock for preparing work."""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sapnet.backends.base import failing
from sapnet.errors import BackendError

if TYPE_CHECKING:
    import torch  # the node's diagnostics name the processor without it

# Held while a CUDA graph is captured, an engine is loaded or torch's flags are changed, in the whole process: a capture
# fails when another thread allocates or frees memory. Never held while frames are run, nor while closing what may be
# running.
PREPARING = threading.RLock()
_DRIVER = "libcuda.so.1"
_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# The driver's own version files: on PCs and servers, and on Jetson, whose driver is part of the system.
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))


def processor_name() -> str:
    """The processor's model, or its architecture where the system does not tell."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (x86; unknown counts as no)."""
    return not _BF16_FLAGS.isdisjoint(_cpuinfo().get("flags", "").split())


@cache
def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        first, _, _ = _CPUINFO.read_text().partition("\n\n")
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def find_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU; a GPU's index is always set. Raises BackendError."""
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError(
            f"got device {name!r}, but torch {torch.__version__} finds no CUDA GPU; check the NVIDIA driver and "
            "install a CUDA build of torch as pytorch.org says (pip install torch), or use device 'cpu'"
        )
    # It may be without free memory, or its driver too old.
    with failing("torch cannot use the GPU; see who else does: nvidia-smi"):
        torch.cuda.init()  # type: ignore[no-untyped-call]
    index = torch.device("cuda" if name == "auto" else name).index or 0
    if index >= (count := torch.cuda.device_count()):
        raise BackendError(f"got device {name!r}, but this machine has {count} GPU(s), the first is cuda:0")
    return torch.device("cuda", index)


def driver_version() -> str:
    """Identify the NVIDIA driver; another driver invalidates engines and their kernels."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL(_DRIVER).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        status = -1
    said = [f"CUDA {version.value if status == 0 else 'unknown'}"]
    for path in _DRIVER_FILES:
        if path.is_file():
            said.append(path.read_text(errors="replace").strip().partition("\n")[0])
    return "; ".join(said)


def place(device: torch.device) -> dict[str, str]:
    """The GPU and its driver, as part of a cache key."""
    import torch

    return {"gpu": torch.cuda.get_device_name(device), "driver": driver_version()}


@contextmanager
def without_tf32() -> Iterator[None]:
    """Turn TF32 off for convolutions in the whole process; the caller holds PREPARING.

    Where a process has used torch's newer ``fp32_precision``, its older flags raise: each is set in its own way.
    """
    import torch

    conv = getattr(torch.backends.cudnn, "conv", None)
    if conv is None:  # torch before 2.9
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
        return
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before
