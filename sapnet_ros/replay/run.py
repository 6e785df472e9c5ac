"""A run of a replay: what is played to derain_node, and what became of the frames."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sapnet_ros.replay.live_run import NODE, PLAYER, READY_TIMEOUT_S, RECORDER, LiveRun, RunError, table
from sapnet_ros.replay.lockstep import STATUS
from sapnet_ros.replay.plan import NodeCamera, Plan, each

# The least specific key, which a file of the user's overrides, and one that matches every node and stands in no such
# file: it comes out on top. launching.override_file says why.
BELOW, ABOVE = "/**", "/**/*"
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class ReplaySettings:
    """What to play, and how.

    cameras_alone: leave the recording's other topics out. status: record frame_status. node_parameters: of
    derain_node, above its params_file. The rest as for ``sapnet_ros.replay.bag_publisher``.
    """

    bag: Path
    plan: Plan
    output: Path | None
    rate: float
    loop: bool
    lockstep: bool
    start_s: float
    duration_s: float
    max_gap_s: float
    cameras_alone: bool
    storage: str
    status: bool
    node_parameters: dict[str, Any]
    params_file: Path | None


class ReplayRun:
    """One run in ``folder``, which is for it alone. bag: the recording that it leaves there."""

    def __init__(self, settings: ReplaySettings, folder: Path, domain: int) -> None:
        self._settings = settings
        self._folder = folder
        self._run = LiveRun(folder, domain, [camera.label for camera in settings.plan.cameras])
        self.bag = folder / "recording" / (settings.output.name if settings.output is not None else "none")

    def perform(self, on_progress: Callable[[int, str], None]) -> dict[str, Any]:
        """Run to the end; returns the figures. Raises SapnetError, and RunError also where no frame was derained."""
        plan = self._settings.plan
        remaps = plan.remap_arguments()
        commands = {
            NODE: ("sapnet_ros.derain_node", ["--ros-args", *remaps, *self._node_parameters()]),
            RECORDER: (
                "sapnet_ros.replay.recorder",
                [*self._recorder(), "--ros-args", *remaps, "-p", "use_sim_time:=true"],
            ),
            PLAYER: ("sapnet_ros.replay.bag_publisher", self._publisher()),
        }
        self._run.perform(commands, on_progress, endless=self._settings.loop)
        summary = self._summarize()
        if not any(camera["derained"] for camera in summary["cameras"]):
            reasons = json.dumps([camera["reasons"] for camera in summary["cameras"]])
            raise RunError(f"none of {sum(c['sent'] for c in summary['cameras'])} frames was derained: {reasons}")
        return summary

    def warnings(self) -> list[str]:
        """What the player found wrong with the recording."""
        marks = ("[WARN]", "bag_player: ")
        lines = self._run.said_by_player().splitlines()
        return [line.rpartition("]: ")[2].removeprefix(marks[1]) for line in lines if line.startswith(marks)]

    def _node_parameters(self) -> list[str]:
        settings, plan = self._settings, self._settings.plan
        files = [self._parameter_file("below.yaml", BELOW, {"warmup_sizes": plan.sizes})]
        files += [settings.params_file] if settings.params_file is not None else []
        files.append(self._parameter_file("above.yaml", ABOVE, {**plan.parameters, **settings.node_parameters}))
        return [word for file in files for word in ("--params-file", str(file))]

    def _parameter_file(self, name: str, key: str, values: dict[str, Any]) -> Path:
        # JSON is YAML in which every text is quoted: the node's parser takes a bare 1e5 or no for something else.
        path = self._folder / name
        path.write_text(json.dumps({key: {"ros__parameters": values}}))
        return path

    def _recorder(self) -> list[str]:
        settings, run = self._settings, self._run
        words = [str(self.bag), "--storage", settings.storage] if settings.output is not None else []
        words += ["--compress"] if settings.storage == "mcap" else []
        words += ["--status"] if settings.status else []
        words += settings.plan.recorder_arguments()
        return [*words, "--received", str(run.received), "--diagnostics", str(run.diagnostics)]

    def _publisher(self) -> list[str]:
        settings, cameras = self._settings, [camera.source for camera in self._settings.plan.cameras]
        words = [str(settings.bag), "--rate", str(settings.rate), "--sent", str(self._run.sent)]
        words += ["--start", str(settings.start_s), "--duration", str(settings.duration_s)]
        words += ["--max-gap", str(settings.max_gap_s)]
        words += ["--loop"] if settings.loop else []
        words += settings.plan.publisher_arguments(recorder=True)
        if settings.cameras_alone:
            infos = [camera.info.name for camera in cameras if camera.info is not None]
            words += each("--topic", [*(camera.topic.name for camera in cameras), *infos])
        return [*words, "--ready-timeout", str(READY_TIMEOUT_S)]

    def _summarize(self) -> dict[str, Any]:
        settings, run = self._settings, self._run
        backend = run.status("backend")["values"]
        cameras = [self._camera_figures(camera) for camera in settings.plan.cameras]
        missed = sum(c["derained"] + c["passed_through"] - c["recorded"] for c in cameras)
        return {
            "input": str(settings.bag),
            "output": str(settings.output) if settings.output is not None else None,
            "rate": settings.rate,
            "lockstep": settings.lockstep,
            "cameras": cameras,
            "network": {name: backend.get(name, "") for name in ("weights", "backend", "precision", "device")},
            "notes": [f"the recorder missed {missed} frames that came out"] if missed else [],
        }

    def _camera_figures(self, camera: NodeCamera) -> dict[str, Any]:
        values = self._run.status(camera.label)["values"]
        topic, status = camera.source.topic.name, f"{camera.name}/{STATUS}" if camera.name else STATUS
        sent: dict[int, list[int]] = {}
        for name, stamp, steady_ns in table(self._run.sent):
            if name == topic:
                sent.setdefault(int(stamp), []).append(int(steady_ns))
        answers = [(int(stamp), int(ns), word) for name, stamp, ns, word in table(self._run.received) if name == status]
        counts = ("received", "derained", "passed_through", "dropped", "lost_in_transport")
        return {
            "topic": topic,
            "derained_topic": camera.source.output("derained/image"),
            "sent": sum(map(len, sent.values())),
            **{name: int(values[name]) for name in counts},
            "recorded": len(answers),
            "reasons": {fate: _reasons(values, f"{fate}_") for fate in ("passed_through", "dropped")},
            "latency_ms": _percentiles(
                [(ns - _last_before(sent[stamp], ns)) / 1e6 for stamp, ns, word in answers if word == "derained"]
            ),
        }


def _reasons(values: dict[str, str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(count) for name, count in values.items() if name.startswith(prefix)}


def _last_before(sent_ns: list[int], time_ns: int) -> int:
    """When a frame was sent, which has been sent before if the recording is played again and again."""
    return sent_ns[bisect_right(sent_ns, time_ns) - 1]


def _percentiles(latencies: list[float]) -> dict[str, float] | None:
    if not latencies:
        return None
    values = np.percentile(latencies, PERCENTILES)
    return {f"p{percent}": round(float(value), 2) for percent, value in zip(PERCENTILES, values, strict=True)}
