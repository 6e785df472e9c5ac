"""What a node must bear for long: ten thousand hostile messages, hundreds of lifecycle cycles."""

from __future__ import annotations

import array
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rig import Rig, key, running
from sensor_msgs.msg import CompressedImage, Image

from live import wait_for
from message_builders import TIGHT

CYCLES = int(os.environ.get("SAPNET_LIFECYCLE_CYCLES", "300"))
WARM = 20  # cycles after which nothing may grow
MAX_GROWTH_KB = 5.0  # a cycle
CHUNK = 50
MAX_PIXELS = 20000

# One flat draw for each field: ten thousand messages of nested ones take minutes to make.
UINT32 = st.integers(0, 2**32 - 1)
SIDES = st.sampled_from([*range(100), 10**4, 2**16, 2**31, 2**32 - 1])
ENCODINGS = st.sampled_from([*TIGHT, "mono12", "32FC1", "8UC", "BGR8", "bgr8 ", "", "é\u2028", "x" * 300])
# Never random again: what is to be found is found once, and a failure can be had again.
MANY = settings(
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a shrunken message would meet a node that is dead already
    suppress_health_check=list(HealthCheck),
)

pytestmark = pytest.mark.once


def hostile_image(
    encoding: str, height: int, width: int, padding: int, excess: int, is_bigendian: int, spoilt: str | None, value: int
) -> Image:
    """As it should be, but for ``padding`` of the rows, ``excess`` bytes of data, and a field that is ``spoilt``."""
    tight, length = TIGHT.get(encoding, (8, 48))  # of a row of 8 pixels, and of 6 such rows
    step = min(width * tight // 8 + padding, 2**32 - 1)
    length = step * height * length // (6 * tight) + excess
    message = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=is_bigendian)
    if spoilt:
        setattr(message, spoilt, value)
    message.data = array.array("B", [value % 256]) * (length if 0 <= length <= 100_000 else value % 5000)
    return message


IMAGES = st.builds(
    hostile_image,
    encoding=ENCODINGS,
    height=SIDES,
    width=SIDES,
    padding=st.sampled_from([0, 0, 0, 1, 7]),
    excess=st.sampled_from([0, 0, 0, 0, -1, 1, 1000]),
    is_bigendian=st.sampled_from([0, 1, 255]),
    spoilt=st.sampled_from([None] * 9 + ["height", "width", "step"]),
    value=UINT32,
)


FRAME = np.add.outer(np.arange(48), np.arange(64))[..., None].repeat(3, 2).astype(np.uint8)
PNG = cv2.imencode(".png", FRAME)[1].tobytes()
FILES = [
    *(cv2.imencode(kind, FRAME)[1].tobytes() for kind in (".jpg", ".webp", ".bmp", ".tiff")),
    cv2.imencode(".jpg", np.zeros((500, 500, 3), np.uint8))[1].tobytes(),
    PNG,
    b"",
    b"\xff\xd8\xff",
]


def hostile_file(content: bytes, damage: list[tuple[int, int]], length: int, declared: str) -> CompressedImage:
    """A file with some of its bytes changed, cut off after ``length``."""
    changed = bytearray(content[:length])
    for position, value in damage:
        if changed:
            changed[position % len(changed)] = value
    return CompressedImage(format=declared, data=array.array("B", changed))


COMPRESSED_IMAGES = st.builds(
    hostile_file,
    content=st.sampled_from(FILES) | st.binary(max_size=200),
    damage=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=3),
    length=st.sampled_from([10**6] * 3 + [1, 10, 100, 500, 1000]),
    declared=st.sampled_from(["jpeg", "png", "bgr8; jpeg compressed bgr8", "16UC1; compressedDepth png", "\u2028", ""]),
)


def bombard(rig: Rig, messages: st.SearchStrategy[Any], count: int, send_good: Callable[[], None]) -> None:
    """Send so many hostile messages, in chunks; a good frame after each must come through."""
    feed = rig.feeds[""]
    seconds = st.integers(-(2**31), 2**31 - 1)
    chunks = st.lists(messages, min_size=CHUNK, max_size=CHUNK)

    @settings(MANY, max_examples=count // CHUNK)
    @given(chunks, seconds, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
    def send(chunk: list[Any], sec: int, frame_id: str) -> None:
        for message in chunk:
            message.header.frame_id = frame_id
            message.header.stamp.sec, message.header.stamp.nanosec = sec, 4 * 10**9 + len(feed.sent)
            rig.send_message(message, None)
        send_good()
        last, statuses = feed.sent[-1][0], feed.outputs["frame_status"]
        wait_for(lambda: statuses and key(statuses[-1]) == last, "the good frame")

    send()
    assert len(feed.sent) >= count


def test_ten_thousand_hostile_images(tmp_path: Path) -> None:
    with running(tmp_path / "node.log") as rig:
        rig.configure(on_overload="passthrough", max_pixels=MAX_PIXELS)
        bombard(rig, IMAGES, 10_000, rig.send)
        rig.send()
        fates = rig.one()
        assert fates.kinds[-1] == "derained"
        assert fates.dropped.keys() == {"invalid", "unsupported"}
        assert fates.dropped.total() > 1000
        assert fates.out > 500
        assert fates.values["lost_in_transport"] == "0"


def test_hostile_compressed_images(tmp_path: Path) -> None:
    with running(tmp_path / "node.log", compressed=True) as rig:
        rig.configure(on_overload="passthrough", max_pixels=MAX_PIXELS)

        def send_good() -> None:
            message = CompressedImage(format="png", data=array.array("B", PNG))
            message.header.stamp.sec = len(rig.feeds[""].sent)
            rig.send_message(message, FRAME)

        bombard(rig, COMPRESSED_IMAGES, 4_000, send_good)
        send_good()
        fates = rig.one()
        assert fates.kinds[-1] == "derained"
        assert fates.dropped.keys() <= {"invalid", "unsupported"}
        assert fates.dropped.total() > 400
        assert fates.out > 400


def usage(process: int) -> tuple[int, int, int]:
    """Resident KB, threads, open descriptors."""
    status = dict(re.findall(r"^(VmRSS|Threads):\s*(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
    return int(status["VmRSS"]), int(status["Threads"]), len(os.listdir(f"/proc/{process}/fd"))


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
