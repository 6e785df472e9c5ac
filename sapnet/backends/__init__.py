"""Backends run the network: one module each, and the choice between them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from sapnet.backends.base import Backend, BackendSpec, BuildStatus, import_installed
from sapnet.backends.standby import Standby
from sapnet.errors import BackendError, EngineCacheError, SapnetError

__all__ = ["BACKENDS", "Backend", "BackendSpec", "BuildStatus", "available_backends", "create_backend"]

# Each backend's module, its class there, and how to install what it needs.
_CLASSES = {
    "tensorrt": ("engines.tensorrt", "TensorRtBackend", "pip install tensorrt_rtx onnx, or JetPack's TensorRT"),
    "torch": ("torch", "TorchBackend", "pip install torch"),
    "openvino": ("openvino", "OpenVinoBackend", "pip install openvino torch"),
    "fake": ("fake", "FakeBackend", "reinstall sapnet"),
}
BACKENDS = ("auto", *_CLASSES)
# Exist where an NVIDIA driver is loaded: on a PC or server, and on Jetson.
_GPU_NODES = (Path("/dev/nvidia0"), Path("/dev/nvhost-gpu"), Path("/dev/nvgpu"))

log = logging.getLogger("sapnet")


def create_backend(name: str, spec: BackendSpec) -> Backend | Standby:
    """Create a backend by name; ``auto`` takes the fastest that runs here and logs which.

    Raises BackendError that says what is missing and how to install it, CheckpointError for bad weights.
    """
    if name not in BACKENDS:
        raise BackendError(f"got backend {name!r}, expected {', '.join(BACKENDS)}")
    if spec.fake and name != "fake":
        raise BackendError(f"got {', '.join(spec.fake)} for backend {name!r}, but only backend 'fake' takes them")
    return _create_fastest(spec) if name == "auto" else _create(name, spec)


def available_backends() -> dict[str, str]:
    """Map each backend's name to why it cannot run here; empty if it can."""
    why_not = dict.fromkeys(_CLASSES, "")
    for name in _CLASSES:
        try:
            _create(name, BackendSpec()).close()
        except SapnetError as err:
            why_not[name] = str(err)
    return why_not


def _create(name: str, spec: BackendSpec) -> Backend:
    module, class_name, install = _CLASSES[name]
    found = import_installed(f"{__name__}.{module}", f"backend {name!r}", install)
    backend: Backend = getattr(found, class_name)(spec)
    return backend


def _create_fastest(spec: BackendSpec) -> Backend | Standby:
    cuda = "cuda" if spec.device == "auto" else spec.device
    on_gpu = [("tensorrt", cuda), ("torch", cuda)] if spec.device != "cpu" else []
    on_cpu = [("openvino", "cpu"), ("torch", "cpu")] if spec.device in ("auto", "cpu") else []
    missed: list[tuple[str, str, SapnetError]] = []
    for name, device in on_gpu + on_cpu:
        try:
            backend: Backend | Standby
            backend = fastest = _create(name, replace(spec, device=device))
            if name == "tensorrt" and spec.stand_in:
                backend = Standby(fastest, _create("torch", replace(spec, device=device, engine="")))
        except (BackendError, EngineCacheError) as err:
            missed.append((name, device, err))
            continue
        log.info("backend %s, %s, on %s", backend.name, backend.precision, backend.device)
        # Where a GPU is or is meant to be, those that need one are missed too.
        expects_gpu = device != "cpu" or spec.engine != "" or any(node.exists() for node in _GPU_NODES)
        for better, needed, reason in missed:
            if needed == "cpu" or expects_gpu:
                said = backend.name, backend.device, better, reason
                log.warning("running on %s (%s), a faster one is missing: %s: %s", *said)
        return backend
    *_, last = missed[-1]
    raise BackendError(f"no backend can run on device {spec.device!r}: {last}") from last
