"""One replay: starts derain_node, a player and a recorder, waits for the end and evaluates what they left."""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sapnet.errors import SapnetError
from sapnet_ros.replay.lockstep import STATUS
from sapnet_ros.replay.plan import EXIT_INPUT, NodeCamera, Plan, each
from sapnet_ros.replay.processes import Process, RunError, environment

NODE, PLAYER, RECORDER = "derain_node", "player", "recorder"
# Building an engine may take minutes; the node reports its progress meanwhile.
READY_TIMEOUT_S = 600.0
POLL_S = 0.1
# Diagnostics come every second.
DIAGNOSTICS_TIMEOUT_S = 5.0
# The least specific key, which a file of the user's overrides, and one that overrides every file; see
# launching.parameter_file.
BELOW, ABOVE = "/**", "/**/*"
PERCENTILES = (50, 95, 99)
_ERROR = 2


@dataclass(frozen=True)
class ReplaySettings:
    """What to play, and how.

    rate: times as fast as recorded. play_arguments: further ones of ``bag_publisher``. cameras_alone: leave out the
    recording's other topics. status, inputs: record frame_status, and the frames that go in.
    node_parameters: override the params_file.
    output: where the recording will be moved; None for none.
    """

    bag: Path
    plan: Plan
    output: Path | None
    rate: float = 1.0
    play_arguments: list[str] = field(default_factory=list)
    loop: bool = False
    cameras_alone: bool = False
    storage: str = "mcap"
    status: bool = False
    inputs: bool = False
    node_parameters: dict[str, Any] = field(default_factory=dict)
    params_file: Path | None = None


class ReplayRun:
    """One run in ``folder``, which must be empty. bag: the recording that it leaves there."""

    def __init__(self, settings: ReplaySettings, folder: Path, domain: int) -> None:
        self._settings = settings
        self._folder = folder
        self._sent = folder / "sent.log"
        self._received = folder / "received.log"
        self._diagnostics = folder / "diagnostics.json"
        self._read_bytes = self._statuses = 0
        self._cameras = [camera.label for camera in settings.plan.cameras]
        self._environment = environment(domain, folder)
        self._processes: dict[str, Process] = {}
        self.bag = folder / "recording" / (settings.output.name if settings.output is not None else "none")

    def perform(self, on_progress: Callable[[int, str], None]) -> dict[str, Any]:
        """Run to the end and return the figures; with ``loop``, Ctrl-C is the end.

        on_progress: receives the number of frames that came back, and the current phase. Raises SapnetError for
        wrong input; RunError where a process failed or no frame was derained.
        """
        remaps = ["--ros-args", *self._settings.plan.remap_arguments()]
        with ExitStack() as running:
            for name, module, arguments in (
                (NODE, "sapnet_ros.derain_node", [*remaps, *self._node_parameters()]),
                (RECORDER, "sapnet_ros.replay.recorder", [*self._recorder(), *remaps, "-p", "use_sim_time:=true"]),
                (PLAYER, "sapnet_ros.replay.bag_publisher", self._publisher()),
            ):
                process = Process(module, arguments, self._folder / f"{name}.log", self._environment)
                self._processes[name] = process
                running.callback(process.stop)
            try:
                code = self._watch(on_progress)
            except KeyboardInterrupt:
                if not self._settings.loop:
                    raise
                code = self._processes[PLAYER].stop()
            if code == EXIT_INPUT:
                raise SapnetError(self._processes[PLAYER].last_lines)
            self._check_running()
            if code:
                raise RunError(self._describe(PLAYER) + "\n" + self._describe(NODE))
            self._wait_for_final_diagnostics()
            on_progress(self._returned(), "deraining")
            if self._processes[RECORDER].stop():
                raise RunError(self._describe(RECORDER))
        summary = self._summarize()
        if not any(camera["derained"] for camera in summary["cameras"]):
            reasons = json.dumps([camera["reasons"] for camera in summary["cameras"]])
            raise RunError(f"none of {sum(c['sent'] for c in summary['cameras'])} frames was derained: {reasons}")
        return summary

    def warnings(self) -> list[str]:
        """What the player found wrong with the recording."""
        marks = ("[WARN]", "bag_player: ")
        lines = self._processes[PLAYER].last_lines.splitlines()
        return [line.rpartition("]: ")[2].removeprefix(marks[1]) for line in lines if line.startswith(marks)]

    def outcomes(self) -> dict[int, str]:
        """``derained`` or ``passed_through``, by the stamps of the frames that came back from all cameras."""
        return {int(stamp): word for name, stamp, _, word in _table(self._received) if name.endswith(STATUS)}

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
        settings = self._settings
        words = [str(self.bag), "--storage", settings.storage] if settings.output is not None else []
        words += ["--status"] if settings.status else []
        words += ["--input"] if settings.inputs else []
        words += settings.plan.recorder_arguments()
        return [*words, "--received", str(self._received), "--diagnostics", str(self._diagnostics)]

    def _publisher(self) -> list[str]:
        settings, cameras = self._settings, [camera.source for camera in self._settings.plan.cameras]
        words = [str(settings.bag), "--rate", str(settings.rate), "--sent", str(self._sent), *settings.play_arguments]
        words += ["--loop"] if settings.loop else []
        words += settings.plan.publisher_arguments(recorder=True)
        if settings.cameras_alone:
            infos = [camera.info.name for camera in cameras if camera.info is not None]
            words += each("--topic", [*(camera.topic.name for camera in cameras), *infos])
        return [*words, "--ready-timeout", str(READY_TIMEOUT_S)]

    def _watch(self, on_progress: Callable[[int, str], None]) -> int:
        """Wait for the player; returns its exit status."""
        while (code := self._processes[PLAYER].exit_code) is None:
            self._check_running()
            returned = self._returned()
            on_progress(returned, "deraining" if returned else self._status("backend").get("message") or "starting")
            time.sleep(POLL_S)
        return code

    def _check_running(self) -> None:
        for name in (NODE, RECORDER):
            if self._processes[name].exit_code is not None:
                raise RunError(self._describe(name))
        backend = self._status("backend")
        if backend.get("level") == _ERROR and not self._returned():
            raise RunError(f"derain_node cannot derain: {backend['message']}")

    def _wait_for_final_diagnostics(self) -> None:
        """Wait until the node's figures include the last frame, and the recorder has what it could still receive.

        However long a frame takes, the node reports it as in flight.
        """
        ended_ns = heard_ns = time.monotonic_ns()
        sent, complete = len(_table(self._sent)), False
        while time.monotonic_ns() < heard_ns + DIAGNOSTICS_TIMEOUT_S * 1e9:
            self._check_running()
            told_ns = self._read_diagnostics().get("steady_ns", 0)
            figures = [self._status(camera).get("values", {}) for camera in self._cameras]
            if not complete:
                heard_ns = max(heard_ns, told_ns)
                complete = told_ns > ended_ns and not _total(figures, "in_flight")
            all_came = _total(figures, "received", "lost_in_transport") >= sent
            if complete and all_came and self._returned() >= _total(figures, "derained", "passed_through"):
                return
            time.sleep(POLL_S)
        if not complete:
            raise RunError(f"derain_node has sent no diagnostics for {DIAGNOSTICS_TIMEOUT_S:g} s")

    def _returned(self) -> int:
        """Frames whose status the recorder has noted. Reads only what is new: with ``loop`` the log grows for hours."""
        if self._received.exists():
            with self._received.open("rb") as log:
                log.seek(self._read_bytes)
                lines = log.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            self._read_bytes += len(lines)
            self._statuses += lines.count(b"frame_status ")
        return self._statuses

    def _status(self, name: str) -> dict[str, Any]:
        """The node's last diagnostics of a camera or of its backend."""
        statuses = self._read_diagnostics().get("statuses", {})
        return next((status for key, status in statuses.items() if key.endswith(f"/{NODE}: {name}")), {})

    def _read_diagnostics(self) -> dict[str, Any]:
        diagnostics: dict[str, Any] = json.loads(self._diagnostics.read_text()) if self._diagnostics.exists() else {}
        return diagnostics

    def _describe(self, name: str) -> str:
        code, lines = self._processes[name].exit_code, self._processes[name].last_lines
        happened = "is still running" if code is None else f"ended with exit status {code}"
        return f"{name} {happened}; its last lines:\n{lines or '(none)'}"

    def _summarize(self) -> dict[str, Any]:
        settings = self._settings
        backend = self._status("backend")["values"]
        cameras = [self._camera_figures(camera) for camera in settings.plan.cameras]
        missed = sum(c["derained"] + c["passed_through"] - c["recorded"] for c in cameras)
        return {
            "input": str(settings.bag),
            "output": str(settings.output) if settings.output is not None else None,
            "rate": settings.rate,
            "lockstep": settings.plan.lockstep,
            "cameras": cameras,
            "network": {name: backend.get(name, "") for name in ("weights", "backend", "precision", "device")},
            "notes": [f"the recorder missed {missed} frames that came out"] if missed else [],
        }

    def _camera_figures(self, camera: NodeCamera) -> dict[str, Any]:
        values = self._status(camera.label)["values"]
        topic, status = camera.source.topic.name, f"{camera.name}/{STATUS}" if camera.name else STATUS
        sent: dict[int, list[int]] = {}
        for name, stamp, steady_ns in _table(self._sent):
            if name == topic:
                sent.setdefault(int(stamp), []).append(int(steady_ns))
        answers = [(int(stamp), int(ns), word) for name, stamp, ns, word in _table(self._received) if name == status]
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


def _table(path: Path) -> list[list[str]]:
    """The words of each complete line."""
    return [line.split() for line in path.read_text().splitlines()]


def _total(figures: list[dict[str, str]], *names: str) -> int:
    """The sum of these figures over all cameras."""
    return sum(int(values.get(name, 0)) for values in figures for name in names)


def _reasons(values: dict[str, str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(count) for name, count in values.items() if name.startswith(prefix)}


def _last_before(sent_ns: list[int], time_ns: int) -> int:
    """When a frame was last sent before ``time_ns``; a recording that is looped has sent it several times."""
    return sent_ns[bisect_right(sent_ns, time_ns) - 1]


def _percentiles(latencies: list[float]) -> dict[str, float] | None:
    if not latencies:
        return None
    values = np.percentile(latencies, PERCENTILES)
    return {f"p{percent}": round(float(value), 2) for percent, value in zip(PERCENTILES, values, strict=True)}
