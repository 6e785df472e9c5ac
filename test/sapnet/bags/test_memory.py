"""How much memory deraining a recording takes does not depend on its length."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import bag_worker
import pytest

from bag_builders import FRAME_NS, START_NS, Sent, image, smooth_frames, write_bag

SHORT, LONG = 100, 1000


def drive(count: int) -> Iterator[Sent]:
    frames = smooth_frames(10, 120, 160)
    for number in range(count):
        yield image("/cam/image_raw", START_NS + number * FRAME_NS, frames[number % 10])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is told by /proc, as Linux has it")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_recording_of_ten_times_the_length_takes_no_more_memory(
    storage: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    peaks = {}
    for count in (SHORT, LONG):
        source = write_bag(tmp_path / f"in{count}", drive(count), storage)
        with processes.Pool(1) as pool:  # each in a process of its own
            peaks[count] = pool.apply(bag_worker.peak_kb, (source, tmp_path / f"out{count}"))
    print(f"{storage}: peak memory of {SHORT} and {LONG} frames: {peaks[SHORT]} and {peaks[LONG]} kB")
    assert peaks[LONG] < 1.05 * peaks[SHORT]
