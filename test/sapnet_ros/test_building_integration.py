"""derain_node while an engine is built: frames go on, progress is told, and the next start finds it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Bool

from live import NodeProcess, Peer, image, millis, repeating, wait_for

pytestmark = pytest.mark.once

Start = Callable[..., NodeProcess]
GRAY = np.full((48, 64, 3), 90, np.uint8)


def frames(peer: Peer) -> AbstractContextManager[None]:
    """A camera at 20 Hz."""
    publisher, stamps = peer.publisher(Image, "/image"), itertools.count(1000, 50)
    return repeating(lambda: publisher.publish(image(GRAY, next(stamps))), 20)


def reasons(statuses: list[Any]) -> list[str]:
    """Of each frame, why it was not derained; empty if it was."""
    return [value.value for message in statuses for value in message.status[0].values if value.key == "reason"]


def test_frames_go_on_while_an_engine_is_built_and_the_next_start_finds_it(
    peer: Peer, start_process: Start, tmp_path: Path
) -> None:
    cold = start_process(fake__build_s=2.0, cache_dir=tmp_path / "cache")
    fates = peer.collect(DiagnosticArray, "/frame_status")
    derained = peer.collect(Image, "/derained/image")
    ready = peer.collect(Bool, "/derain_node/ready", latched=True)
    with frames(peer):
        said = "building the engine for 48x64: "
        status = wait_for(lambda: said in (s := peer.status("backend"))["message"] and s, "progress")
        assert status["level"] == DiagnosticStatus.WARN
        assert len(derained) > 0
        assert not ready[-1].data
        wait_for(lambda: ready[-1].data and "" in reasons(fates), "a derained frame")
    passed, *_ = reasons(fates)
    assert passed == "building"
    # Once derained, always derained.
    told = reasons(fates)
    assert set(told[told.index("") :]) == {""}
    assert [millis(message) for message in derained] == sorted(millis(message) for message in derained)
    assert said in cold.log.read_text()
    assert cold.stop() == 0

    warm = start_process(fake__build_s=2.0, cache_dir=tmp_path / "cache")
    with frames(peer):
        peer.wait_ready()
    assert "building the engine" not in warm.log.read_text()


def test_the_old_engine_serves_while_one_for_other_stages_is_built(
    peer: Peer, start_node: Start, tmp_path: Path
) -> None:
    start_node(fake__build_s=2.0, cache_dir=tmp_path / "cache", warmup_sizes="[48x64]")
    fates = peer.collect(DiagnosticArray, "/frame_status")
    peer.wait_ready()
    with frames(peer):
        wait_for(lambda: "fake" in peer.status("backend")["message"], "no build under way")
        assert peer.set(stages=2).successful
        said = "building the engine for 48x64: "
        status = wait_for(lambda: said in (s := peer.status("backend"))["message"] and s, "the second build")
        assert status["stages"] == "4", "the first engine serves"
        assert status["level"] == DiagnosticStatus.WARN
        wait_for(lambda: peer.status("backend")["stages"] == "2", "the second engine")
        wait_for(lambda: "fake" in peer.status("backend")["message"], "no word of a build any more")
    assert set(reasons(fates)) == {""}


@pytest.mark.parametrize(
    ("params", "code", "said"),
    [
        ({"warmup_sizes": "[48x64, 32x32]"}, 0, "all engines are ready"),
        ({"warmup_sizes": "[48x64]", "fake.mode": "build_fails"}, 1, "the engine cannot be built"),
        ({}, 1, "set warmup_sizes"),
    ],
)
def test_build_only_builds_and_ends(params: dict[str, str], code: int, said: str, tmp_path: Path) -> None:
    given = {"backend": "fake", "fake.build_s": "0.2", "cache_dir": str(tmp_path / "cache"), **params}
    command = [sys.executable, "-m", "sapnet_ros.derain_node", "--build-only"]
    node = NodeProcess(command=command, log=tmp_path / "node.log", **given)
    assert node.wait() == code
    log = node.log.read_text()
    assert said in log
    assert "Traceback" not in log
    engines = list((tmp_path / "cache").glob("engine-*.entry"))
    assert len(engines) == (params["warmup_sizes"].count("x") if code == 0 else 0)
