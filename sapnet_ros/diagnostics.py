"""The statuses on /diagnostics: one for each camera, one for the backend, one for the process.

node: its fully qualified name, so that an aggregator tells several apart. ``hardware_id`` is a camera's frame_id, the
backend's device and the process's CPU.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

import sapnet
from sapnet.backends.devices import processor_name
from sapnet_ros.camera import Camera
from sapnet_ros.fate import DRY, UNWATCHED
from sapnet_ros.loader import Loader
from sapnet_ros.params import NodeParams

LOG_INTERVAL_S = 10.0  # between two log lines of one kind
_STATUS = Path("/proc/self/status")
MAX_CHARACTERS = 500  # of a text; some of them repeat what a message or a library said
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Throttle:
    """Lets one line of each kind pass per interval. Thread-safe."""

    def __init__(self, interval_s: float = LOG_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = Lock()
        self._last_s: dict[str, float] = {}

    def allow(self, kind: str) -> bool:
        """Whether a line of this kind may be logged now."""
        with self._lock:
            now_s = time.monotonic()
            may_pass = now_s - self._last_s.get(kind, -math.inf) >= self._interval_s
            if may_pass:
                self._last_s[kind] = now_s
            return may_pass


class ProcessUsage:
    """Memory, threads, and CPU time since the last call."""

    def __init__(self) -> None:
        self._asked_s, self._used_s = time.monotonic(), time.process_time()

    def values(self) -> Mapping[str, float | int]:
        """``memory_mb`` that is resident, ``threads``, ``cpu_percent`` of one core."""
        asked_s, used_s = time.monotonic(), time.process_time()
        share = (used_s - self._used_s) / max(asked_s - self._asked_s, 1e-3)
        self._asked_s, self._used_s = asked_s, used_s
        status = dict(re.findall(r"^(VmRSS|Threads):\s*(\d+)", _STATUS.read_text(), re.MULTILINE))
        return {
            "memory_mb": int(status["VmRSS"]) / 1024,
            "threads": int(status["Threads"]),
            "cpu_percent": 100.0 * share,
            "open_files": len(os.listdir("/proc/self/fd")),
        }


def camera_status(node: str, camera: Camera, active_for_s: float | None, params: NodeParams) -> DiagnosticStatus:
    """Counts and latency of one camera. A camera that is silent while the node is active is an ERROR.

    active_for_s: how long the node has been active, which bounds the silence; None while it is not.
    """
    topic = camera.topics.final(camera.topics.image)
    figures = camera.stats.values()
    values = {
        "topic": topic,
        "enabled": params.enabled and camera.enabled,
        "gate": camera.gate.state(params),
        **figures,
        "lost_in_transport": camera.losses.total,
        "best_effort_fallback": camera.best_effort,
        "late_camera_infos": camera.late_infos,
    }
    level, message = _camera_level(camera, topic, figures.get("silent_s"), active_for_s, params)
    return _status(f"{node}: {camera.label}", level, message, values, camera.frame_id or topic)


def backend_status(node: str, loader: Loader, params: NodeParams) -> DiagnosticStatus:
    """State of the backend. ``fake`` is never OK, so that no vehicle drives with it unnoticed."""
    derainer = loader.derainer
    backend = derainer.backend_name if derainer is not None else params.backend
    values: dict[str, Any] = {"backend": backend, "weights": params.weights, "ready": loader.ready}
    if derainer is not None:
        values |= {"precision": derainer.precision, "stages": derainer.stages, "device": derainer.device}
    values |= {"build_progress": loader.building, "restarts": loader.restarts.count}
    if loader.choice.said:
        values["stages_choice"] = loader.choice.said
    # Not before there is a network: torch may be half imported.
    if derainer is not None and (memory_mb := _gpu_memory_mb(params.device)) is not None:
        values["gpu_memory_mb"] = memory_mb
    if loader.last_error is not None:
        error, at_s = loader.last_error
        values |= {"last_error": error, "last_error_age_s": time.monotonic() - at_s}
    level, message = _backend_level(loader, backend, params)
    device = derainer.device if derainer is not None else processor_name()
    return _status(f"{node}: backend", level, message, values, device)


def process_status(node: str, state: str, problem: str, usage: ProcessUsage) -> DiagnosticStatus:
    """Lifecycle state and resources of the process. problem: why it cannot be configured; empty if it can."""
    level, message = (ERROR, problem) if problem else (OK, state)
    values = {"state": state, "pid": os.getpid(), "version": sapnet.__version__, **usage.values()}
    return _status(f"{node}: process", level, message, values, processor_name())


def _status(name: str, level: bytes, message: str, values: Mapping[str, Any], hardware_id: str) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=_text(message),
        hardware_id=_text(hardware_id),
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
    )


def _backend_level(loader: Loader, backend: str, params: NodeParams) -> tuple[bytes, str]:
    """The backend's level and message."""
    building, quiet_s = loader.building, loader.quiet_s
    if loader.error:
        return ERROR, loader.error
    if building and quiet_s > params.diagnostics_build_silent_after_s:
        return ERROR, f"{building}: no news for {quiet_s:.0f} s; it may hang"
    if building:
        return WARN, building
    if backend == "fake":
        return WARN, "the fake backend does not derain"
    return OK, "ready" if loader.ready else "waiting for a frame size"


def _camera_level(
    camera: Camera, topic: str, silent_s: float | None, active_for_s: float | None, params: NodeParams
) -> tuple[bytes, str]:
    """The camera's level and message, from its silence and its last frame."""
    if active_for_s is None:
        return OK, "inactive"
    if camera.wrong_types:
        return ERROR, camera.wrong_types
    stats, quiet_s = camera.stats, active_for_s if silent_s is None else min(silent_s, active_for_s)
    if quiet_s > params.diagnostics_silent_after_s:
        return ERROR, f"no frame on {topic} for {quiet_s:.0f} s"
    if silent_s is None:
        return WARN, f"waiting for the first frame on {topic}"
    runs, missed = params.enabled and camera.enabled, stats.missed_in_row
    if runs and params.deadline_ms and missed >= params.diagnostics_missed_in_row:
        return ERROR, (
            f"the backend is slower than the deadline of {params.deadline_ms} ms: "
            f"{missed} frames in a row have missed it"
        )
    reason, error = stats.last_fate  # once: the dispatch may settle a frame meanwhile
    if error:
        return ERROR, error
    if reason == UNWATCHED:
        return OK, "unwatched: nobody subscribes to an output"
    if reason == DRY:
        return OK, "dry: frames pass through"
    if reason:
        return WARN, f"the last frame was not derained: {reason}"
    if camera.info_mismatch:
        return WARN, camera.info_mismatch
    return OK, "deraining"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."


def _gpu_memory_mb(device: str) -> float | None:
    """Memory in use on a GPU, by all processes; None if torch has not used one, or cannot tell."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        free, total = torch.cuda.mem_get_info(device if device.startswith("cuda") else None)
    except RuntimeError:  # a GPU that has failed says so to the network; what is told of it must not fail, too
        return None
    return float(total - free) / 2**20
