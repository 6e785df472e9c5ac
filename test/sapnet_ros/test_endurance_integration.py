"""What a node must bear for long: ten thousand hostile messages, hundreds of lifecycle cycles, four cameras."""

from __future__ import annotations

import array
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from rig import key, running
from sensor_msgs.msg import CompressedImage, Image

from live import ROOT, wait_for
from message_builders import TIGHT

CYCLES = int(os.environ.get("SAPNET_LIFECYCLE_CYCLES", "300"))
WARM = 20  # cycles after which nothing may grow
MAX_GROWTH_KB = 5.0  # a cycle
CHUNK = 50
MAX_PIXELS = 20000
SIDES = (*range(100), 10**4, 2**16, 2**31, 2**32 - 1)
ENCODINGS = (*TIGHT, "mono12", "32FC1", "8UC", "BGR8", "bgr8 ", "", "é\u2028", "x" * 300)

pytestmark = pytest.mark.once


def hostile_image(rng: Random) -> Image:
    """As it should be, but at times for padded rows, for some bytes of data, and for a field."""
    encoding, height, width = rng.choice(ENCODINGS), rng.choice(SIDES), rng.choice(SIDES)
    tight, length = TIGHT.get(encoding, (8, 48))  # of a row of 8 pixels, and of 6 such rows
    step = min(width * tight // 8 + rng.choice([0, 0, 0, 1, 7]), 2**32 - 1)
    length = step * height * length // (6 * tight) + rng.choice([0, 0, 0, 0, -1, 1, 1000])
    value = rng.choice([0, rng.randrange(5000), rng.getrandbits(32), 2**32 - 1])
    message = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=rng.choice([0, 1, 255]))
    if rng.random() < 0.25:
        setattr(message, rng.choice(["height", "width", "step"]), value)
    message.data = array.array("B", [value % 256]) * (length if 0 <= length <= 100_000 else value % 5000)
    return message


FRAME = np.add.outer(np.arange(48), np.arange(64))[..., None].repeat(3, 2).astype(np.uint8)
JPEG, PNG, *OTHERS = (cv2.imencode(kind, FRAME)[1].tobytes() for kind in (".jpg", ".png", ".webp", ".bmp", ".tiff"))
FILES = [
    *(JPEG, PNG) * 2,
    *OTHERS,
    cv2.imencode(".jpg", np.zeros((500, 500, 3), np.uint8))[1].tobytes(),
    b"",
    b"\xff\xd8\xff",
]
FORMATS = ("jpeg", "png", "bgr8; jpeg compressed bgr8", "16UC1; compressedDepth png", "\u2028", "")


def hostile_file(rng: Random) -> CompressedImage:
    """A file, or bytes that are none, with some bytes changed, cut off somewhere."""
    content = rng.choice(FILES) if rng.random() < 0.7 else rng.randbytes(rng.randrange(200))
    changed = bytearray(content[: rng.choice([10**6] * 5 + [1, 10, 100, 500, 1000])])
    for _ in range(rng.choice([0, 0, 1, 2, 3]) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return CompressedImage(format=rng.choice(FORMATS), data=array.array("B", changed))


@pytest.mark.parametrize(
    ("make", "count", "least_dropped", "least_out"),
    [(hostile_image, 10_000, 1000, 500), (hostile_file, 4_000, 400, 400)],
)
def test_hostile_messages(
    make: Callable[[Random], Any], count: int, least_dropped: int, least_out: int, tmp_path: Path
) -> None:
    """In chunks, and the same every time; a good frame after each must come through."""
    rng = Random(0)  # noqa: S311, no secret
    with running(tmp_path / "node.log", compressed=make is hostile_file) as rig:
        rig.configure(on_overload="passthrough", max_pixels=MAX_PIXELS)
        feed = rig.feeds[""]
        statuses = feed.outputs["frame_status"]
        for _ in range(count // CHUNK):
            sec = rng.randrange(-(2**31), 2**31)
            letters = [rng.choice([rng.randrange(1, 128), rng.randrange(1, 0xD800), 0x1F327]) for _ in range(20)]
            frame_id = "".join(map(chr, letters[: rng.randrange(21)]))
            for _ in range(CHUNK):
                message = make(rng)
                message.header.frame_id = frame_id
                message.header.stamp.sec, message.header.stamp.nanosec = sec, 4 * 10**9 + len(feed.sent)
                rig.send_message(message, None)
            rig.send()
            last = feed.sent[-1][0]
            wait_for(lambda last=last: statuses and key(statuses[-1]) == last, "the good frame")
        rig.send()
        fates = rig.one()
    assert fates.kinds[-1] == "derained"
    assert fates.dropped.keys() == {"invalid", "unsupported"}
    assert fates.dropped.total() > least_dropped
    assert fates.out > least_out
    assert fates.values["lost_in_transport"] == "0"


def usage(process: int) -> tuple[int, int, int]:
    """Resident KB, threads, open descriptors."""
    node = psutil.Process(process)
    return node.memory_info().rss // 1024, node.num_threads(), node.num_fds()


def test_lifecycle_cycles_leave_nothing_behind(tmp_path: Path) -> None:
    """Configure, activate, deactivate, cleanup, with frames in some; set SAPNET_LIFECYCLE_CYCLES for more or fewer."""
    with running(tmp_path / "node.log") as rig:
        process, used, began_s = rig.process.process.pid, [], time.monotonic()
        for cycle in range(CYCLES):
            rig.configure()
            if cycle % 5 == 0:
                rig.send()
                wait_for(lambda: len(rig.feeds[""].outputs["frame_status"]) == 1, "its status")
            used.append(usage(process))
            if cycle % 100 == 99:
                assert rig.one().kinds == []
        memory_kb, threads, descriptors = zip(*used[WARM:], strict=True)
        growth_kb = float(np.polyfit(np.arange(len(memory_kb)), memory_kb, 1)[0])
        print(f"{growth_kb:.2f} KB, {(time.monotonic() - began_s) / CYCLES:.3f} s a cycle; {used[WARM]} to {used[-1]}")
        assert growth_kb <= MAX_GROWTH_KB, memory_kb
        for counts in (threads, descriptors):  # the least, for some come and go
            assert min(counts[:10]) == min(counts[-10:]), counts
        rig.send()
        assert rig.one().kinds == ["derained"]


def test_four_cameras_are_carried_whole_and_accounted_for(tmp_path: Path) -> None:
    """What ``make soak`` does for ten minutes must hold for seconds: the last two loads, for three seconds each."""
    program = "import soak; soak.LOADS = soak.LOADS[1:]; soak.main()"
    picture = tmp_path / "soak.png"
    command = [sys.executable, "-c", program, "--minutes", "0.1", "--picture", str(picture)]
    # In the domain of these tests, which the benchmark would choose anew.
    result = subprocess.run(
        command, cwd=ROOT / "benchmarks", env=os.environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = re.findall(r"^\| 4 x .*$", result.stdout, re.MULTILINE)
    assert len(rows) == 2
    assert picture.stat().st_size > 0
