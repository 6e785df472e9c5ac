"""What /diagnostics says of a backend, and how much."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from sapnet_ros.diagnostics import ERROR, MAX_CHARACTERS, OK, WARN, ProcessUsage, backend_status, process_status
from sapnet_ros.params import PARAMETERS, NodeParams

PARAMS = NodeParams.check({declaration.name: declaration.default for declaration in PARAMETERS})


def loader(**more: Any) -> Any:
    fields = {
        "derainer": None,
        "ready": False,
        "building": "",
        "restarts": SimpleNamespace(count=0),
        "last_error": None,
        "error": "",
        "choice": SimpleNamespace(said=""),
        "quiet_s": 0.0,
    }
    return SimpleNamespace(**(fields | more))


@pytest.mark.parametrize(
    ("state", "level", "said"),
    [
        ({"ready": True}, OK, "ready"),
        ({"building": "loading the network"}, WARN, "loading the network"),
        ({"building": "loading the network", "quiet_s": 600.0}, WARN, "loading the network"),
        ({"building": "loading the network", "quiet_s": 601.0}, ERROR, "loading the network: no news for 601 s"),
        ({"building": "compiling for 48x64", "quiet_s": 601.0}, ERROR, "compiling for 48x64: no news for 601 s"),
        ({"error": "no such weights", "building": "", "quiet_s": 601.0}, ERROR, "no such weights"),
    ],
)
def test_how_a_backend_is(state: dict[str, Any], level: bytes, said: str) -> None:
    status = backend_status("node", loader(**state), PARAMS)
    assert status.level == level
    assert status.message.startswith(said)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(lambda t: t * 1000))
def test_no_text_is_long(said: str) -> None:
    backend = backend_status("node", loader(error=said, last_error=(said, 0.0)), PARAMS)
    for status in (backend, process_status("node", "active", said, ProcessUsage())):
        texts = [status.message, *(pair.value for pair in status.values)]
        assert max(map(len, texts)) <= MAX_CHARACTERS
        assert status.message == said or status.message.endswith("...")
