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
