"""A short soak: what ``make soak`` does for ten minutes must hold for seconds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from live import ROOT

pytestmark = pytest.mark.once

# The last two loads, one of either kind, for three seconds each.
PROGRAM = "import soak; soak.LOADS = soak.LOADS[1:]; soak.main()"


def test_four_cameras_are_carried_whole_and_accounted_for(tmp_path: Path) -> None:
    picture = tmp_path / "soak.png"
    command = [sys.executable, "-c", PROGRAM, "--minutes", "0.1", "--picture", str(picture)]
    # In the domain of these tests, which the benchmark would choose anew.
    result = subprocess.run(
        command, cwd=ROOT / "benchmarks", env=os.environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = re.findall(r"^\| 4 x .*$", result.stdout, re.MULTILINE)
    assert len(rows) == 2
    assert picture.stat().st_size > 0


def test_what_does_not_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    soak = pytest.importorskip("soak")
    load = soak.LOADS[0]
    whole = {"sent": 10, "received": 10, "derained": 8, "passed_through": 1, "dropped": 1, "in_flight": 0}
    growing = [soak.Usage(float(second), 100.0 + second / 12, 20.0, 50.0) for second in range(200)]
    assert soak.problems(load, whole, []) == []
    one_step = [soak.Usage(float(second), 160.0 + 4 * (second > 140), 20.0, 50.0) for second in range(200)]
    assert soak.problems(load, whole, one_step) == []
    assert soak.problems(load, whole | {"received": 9}, []) == [
        "received 9, but 10 are accounted for, 0 as open",
        "sent 10, received 9",
    ]
    assert soak.problems(load, whole, growing) == ["memory grows by 5.00 MB a minute"]
