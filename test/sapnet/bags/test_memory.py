"""How much memory deraining a recording takes does not depend on its length."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bag_builders import FRAME_NS, START_NS, Sent, image, smooth_frames, write_bag

ROOT = Path(__file__).resolve().parents[3]
SHORT, LONG = 200, 2000
PROGRAM = (
    "import sys; from pathlib import Path; import bag_worker; bag_worker.derain_and_tell_peak(*map(Path, sys.argv[1:]))"
)


def drive(count: int) -> Iterator[Sent]:
    frames = smooth_frames(10, 120, 160)
    for number in range(count):
        yield image("/cam/image_raw", START_NS + number * FRAME_NS, frames[number % 10])


def peak_kb(source: Path, output: Path) -> int:
    """Of a process of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "test")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), str(output)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is told by /proc, as Linux has it")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_recording_of_ten_times_the_length_takes_no_more_memory(storage: str, tmp_path: Path) -> None:
    peaks = {}
    for count in (SHORT, LONG):
        source = write_bag(tmp_path / f"in{count}", drive(count), storage)
        peaks[count] = peak_kb(source, tmp_path / f"out{count}")
    print(f"{storage}: peak memory of {SHORT} and {LONG} frames: {peaks[SHORT]} and {peaks[LONG]} kB")
    assert peaks[LONG] < 1.10 * peaks[SHORT]
