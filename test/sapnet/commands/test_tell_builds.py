"""What commands that wait for an engine print meanwhile."""

from __future__ import annotations

import pytest

from sapnet.backends.base import BuildStatus, EngineShape
from sapnet.commands.common import tell_builds


def test_a_line_every_few_seconds_and_at_once_for_the_next_build(capsys: pytest.CaptureFixture[str]) -> None:
    tell = tell_builds()
    for height, seconds in ((48, 0.0), (48, 3.0), (48, 5.0), (48, 6.0), (96, 0.5)):
        tell(BuildStatus(EngineShape(height, 64), "building", 0.0, seconds, 0.0))
    assert capsys.readouterr().err.splitlines() == [
        "sapnet: building the engine for 48x64: building, 0 s",
        "sapnet: building the engine for 48x64: building, 5 s",
        "sapnet: building the engine for 96x64: building, 0 s",
    ]
