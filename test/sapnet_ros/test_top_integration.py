"""``sapnet top`` as its users run it: a process of its own, which listens to a derain_node on the fake backend."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctrl_c import heed_ctrl_c
from sensor_msgs.msg import Image

from live import ROOT, LocalNode, Peer, image, repeating, wait_for

pytestmark = pytest.mark.once

Start = Callable[..., LocalNode]

# The command as the installed one runs it, whether or not the package is installed here.
CODE = "import sys, sapnet.cli as c; from sapnet_ros import top; c._loaders = lambda: {'top': lambda: top};"
COMMAND = [sys.executable, "-c", f"{CODE} sys.exit(c.main())", "top"]


def run_top(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    done.stderr = own_lines(done.stderr)
    return done


def own_lines(errors: str) -> str:
    """Without what Fast DDS has to say of a busy machine."""
    return "".join(line for line in errors.splitlines(keepends=True) if "[RTPS_" not in line)


@pytest.fixture
def start_top() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **streams: Any) -> subprocess.Popen[bytes]:
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        process = subprocess.Popen([*COMMAND, *words], cwd=ROOT, env=environment, preexec_fn=heed_ctrl_c, **streams)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_once_as_json(peer: Peer, start_node: Start) -> None:
    start_node()
    publisher = peer.publisher(Image, "image")
    with repeating(lambda: publisher.publish(image(np.full((48, 64, 3), 90, np.uint8), 1)), 10):
        wait_for(lambda: int(peer.status()["derained"]) >= 3, "three derained frames")
    done = run_top("--once", "--json", "--timeout", "30")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(told) == ["node", "cameras", "backend", "process"]
    camera = told["cameras"]["camera"]
    assert camera["topic"] == "/image"
    assert camera["received"] >= camera["derained"] >= 3
    assert 0 < camera["latency_ms_p50"] <= camera["latency_ms_p99"]
    assert (told["backend"]["level"], told["backend"]["backend"]) == ("WARN", "fake")
    assert (told["process"]["state"], told["process"]["pid"]) == ("active", os.getpid())


def test_nothing_in_time_is_said_in_one_line(start_node: Start) -> None:
    start_node()
    done = run_top("--once", "--node", "lidar", "--timeout", "8")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "no message of the node 'lidar' on /diagnostics" in line
    assert re.search(r"for \d+ s; heard: /derain_node$", line)


def test_a_line_of_json_per_message_until_ctrl_c(
    start_node: Start, start_top: Callable[..., Any], tmp_path: Path
) -> None:
    node = start_node(autostart=False)
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors"
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        process = start_top("--json", stdout=stdout, stderr=stderr)
    wait_for(lambda: out.read_bytes().count(b"\n") >= 3, "three messages")
    node.close()
    wait_for(lambda: re.search(rb"no message of a derain_node", errors.read_bytes()), "word of the silence")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    states = {json.loads(line)["process"]["state"] for line in out.read_text().splitlines()}
    assert "unconfigured" in states
    assert len(own_lines(errors.read_text()).splitlines()) == 1


def test_a_terminal_is_redrawn_and_given_back(start_node: Start, start_top: Callable[..., Any]) -> None:
    terminal, inside = pty.openpty()
    os.set_blocking(terminal, False)
    shown = b""

    def screen() -> bytes:
        nonlocal shown
        try:
            while piece := os.read(terminal, 65536):
                shown += piece
        except (BlockingIOError, OSError):
            pass
        return shown

    process = start_top(stdin=inside, stdout=inside, stderr=inside)
    wait_for(lambda: b"no message of a derain_node" in screen(), "a first screen")
    node = start_node(diagnostics__silent_after_s=60.0)
    wait_for(lambda: b"waiting for the first frame on /image" in screen(), "the camera")
    node.close()
    wait_for(lambda: re.search(rb"no message for \d+ s", screen()), "seconds of silence")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    os.close(inside)
    screen()
    os.close(terminal)
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"Traceback" not in shown
