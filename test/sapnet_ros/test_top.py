"""What ``sapnet top`` makes of diagnostics, good and bad."""

from __future__ import annotations

import io
import json
import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rich.cells import cell_len
from rich.console import Console

from sapnet_ros import top
from sapnet_ros.top import Monitor, plain, read, render

CAMERA = {"topic": "/image", "rate_in_hz": 29.97, "rate_out_hz": 9.5, "received": 1234, "derained": 1100}
CAMERA |= {"passed_through": 30, "dropped": 104, "lost_in_transport": 7, "rain_score": 0.1234, "gate": "rain"}
CAMERA |= {"passed_through_building": 30, "dropped_overload": 104, "dropped_invalid": 0, "enabled": "true"}
CAMERA |= {"latency_ms_p50": 33.3, "latency_ms_p95": 45.67, "latency_ms_p99": 123.4}
CAMERA |= {"inference_ms_p50": 9.96, "inference_ms_p95": 20, "inference_ms_p99": 30, "wait_ms_p50": 0.04}
BACKEND = {"backend": "tensorrt", "weights": "sapnet_fast", "precision": "fp16", "device": "NVIDIA RTX 4090"}
BACKEND |= {"ready": "false", "last_error": "out of memory", "last_error_age_s": 73.2, "gpu_memory_mb": 1834.4}
PROCESS = {"state": "active", "pid": 4711, "version": "1.0.0", "memory_mb": 812.3, "cpu_percent": 143.2, "threads": 23}
HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202eevil\r\nnext\tline " + "雨" * 100_000


def status(name: str, values: dict[str, Any], level: bytes = b"\0", message: str = "") -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


def array(*statuses: DiagnosticStatus) -> DiagnosticArray:
    return DiagnosticArray(status=list(statuses))


def report(node: str = "derain_node", camera: dict[str, Any] | None = None, **process: Any) -> DiagnosticArray:
    return array(
        status(f"{node}: front", CAMERA | (camera or {}), message="deraining"),
        status(f"{node}: backend", BACKEND, b"\1", "building the engine"),
        status(f"{node}: process", PROCESS | process, message="active"),
    )


def text(message: DiagnosticArray, width: int = 200, silent_s: float = 0.0) -> list[str]:
    (found,) = read(message)
    return shown(render(found, silent_s), width)


def shown(renderable: Any, width: int = 200) -> list[str]:
    console = Console(width=width, highlight=False, record=True, file=io.StringIO())
    console.print(renderable)
    return [line.rstrip() for line in console.export_text().splitlines()]


def words(lines: list[str], start: str) -> list[str]:
    return next(line.split() for line in lines if line.split()[:2] == start.split())


@pytest.mark.parametrize("width", [80, 200])
def test_a_report_shows_everything(width: int) -> None:
    lines = text(report(), width)
    assert lines[0] == "derain_node  /image"
    assert words(lines, "OK front") == ["OK", "front", "rain", "30/9.5", "1234", "1100", "30", "104", "7", "0.123"]
    assert words(lines, "front 33/46/123") == ["front", "33/46/123", "0.0/-/-", "10/20/30"]
    assert words(lines, "WARN tensorrt") == ["WARN", "tensorrt", "fp16", "sapnet_fast", "1834"]
    assert words(lines, "OK active") == ["OK", "active", "1.0.0", "4711", "812", "143", "23"]
    notes = ["deraining", "passed through: 30 building; dropped: 104 overload"]
    notes += ["building the engine", "on NVIDIA RTX 4090", "last error 73 s ago: out of memory"]
    assert [line.strip() for line in lines if line.startswith("       ") and line.strip() in notes] == notes


def test_missing_values_are_empty_cells() -> None:
    message = array(status("n: front", {"received": 5, "derained": 5}, message="deraining"))
    lines = text(message)
    assert words(lines, "OK front") == ["OK", "front", "5", "5"]
    # The columns keep their places.
    title, row = (next(line for line in lines if word in line) for word in ("received", "OK"))
    assert row.rindex("5") == title.index("derained") + len("derained") - 1


def test_other_nodes_are_ignored() -> None:
    others = [status("lidar: process", {"state": "up"}, b"\2"), status("usb_cam: front", {"fps": 3}), status("", {})]
    others += [status("no colon", CAMERA), status("gps: backend", {"backend": "ublox"})]
    assert read(array(*others)) == []
    (found,) = read(array(*others, *report("rain_remover").status))
    assert (found.node, list(found.cameras), list(found.parts)) == ("rain_remover", ["front"], ["backend", "process"])


@pytest.mark.parametrize("garbage", ["abc", "nan", "-inf", "1e999", "[1, 2]"])
def test_garbage_figures(garbage: str) -> None:
    keys = ("received", "rate_in_hz", "latency_ms_p50", "rain_score", "dropped_overload", "silent_s")
    message = report(camera=dict.fromkeys(keys, garbage), memory_mb=garbage)
    lines = text(message)
    assert words(lines, "OK front")[3:5] == ["?/9.5", "?"]
    assert words(lines, "OK active")[4] == "?"
    told = json.loads(json.dumps(plain(read(message)[0]), allow_nan=False))
    assert {told["cameras"]["front"][key] for key in keys} == {garbage}
    assert told["process"]["memory_mb"] == garbage


@pytest.mark.parametrize("width", [1, 20, 140])
def test_hostile_text_stays_within_the_width_and_is_no_command(width: int) -> None:
    hostile = dict.fromkeys((*CAMERA, *BACKEND, *PROCESS, "dropped_" + HOSTILE), HOSTILE)
    statuses = [status(f"{HOSTILE}: {label}", hostile, b"\2", HOSTILE) for label in ("front", HOSTILE, "process")]
    statuses.append(status(f"{HOSTILE}: backend", dict.fromkeys(BACKEND, HOSTILE), b"\1", HOSTILE))
    lines = text(array(*statuses), width)
    assert max(map(cell_len, lines)) <= width
    assert {unicodedata.category(letter) for line in lines for letter in line}.isdisjoint({"Cc", "Cf", "Cs", "Zl"})


@pytest.mark.parametrize("wanted", ["rear_node", "/rear/rear_node"])
def test_one_node_may_be_asked_for(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(top, "time", clock)
    monitor = Monitor(wanted)
    monitor.take(report("/front/front_node"))
    clock.monotonic = lambda: 104.0
    (line,) = shown(monitor.screen())
    assert f"no message of the node {wanted!r} on /diagnostics" in line
    assert "for 4 s; heard: /front/front_node." in line
    monitor.take(report("/rear/rear_node"))
    assert [found.node for found in monitor.fresh] == ["/rear/rear_node"]
    clock.monotonic = lambda: 164.0
    assert shown(monitor.screen())[0] == "/rear/rear_node  no message for 60 s  /image"
