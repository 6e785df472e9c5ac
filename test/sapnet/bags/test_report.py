"""The page of a derained recording: what it shows, that it loads nothing, and that a recording cannot write into it."""

from __future__ import annotations

import base64
import re
import tempfile
from collections import Counter
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bag_builders import FRAME_NS, START_NS, Sent, image, smooth_frames, write_bag
from sapnet.bags.report import BagReport, CameraReport, read_report, write_html
from sapnet.files import write_json

Frame = NDArray[np.uint8]

VOID = {"meta", "input", "img", "br", "link"}
COUNT = 12
STAMPS = [START_NS + index * FRAME_NS for index in range(COUNT)]
FRAMES = smooth_frames(COUNT, 120, 160)
DERAINED = [frame // 2 for frame in FRAMES]
MASKS = [np.where(frame[..., 0] > 128, 255, 0).astype(np.uint8) for frame in FRAMES]


class Page(HTMLParser):
    """The elements of a page, in order, and its words outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: Counter[str] = Counter()
        self.feed(self.source)
        self.close()
        assert {tag for tag, count in self._open.items() if count} <= VOID

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self._open[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._open[tag] -= 1

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("script", "style"):
            self.words += f"{data} "

    def all(self, tag: str, of_class: str = "") -> list[dict[str, str]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and (not of_class or of_class in attrs.get("class", "").split())
        ]

    def pictures(self, of_class: str) -> list[Frame]:
        contents = [attrs["src"].partition(",")[2] for attrs in self.all("img", of_class)]
        stored = [np.frombuffer(base64.b64decode(content, validate=True), np.uint8) for content in contents]
        return [cv2.imdecode(content, cv2.IMREAD_UNCHANGED) for content in stored]


def camera_report(topic: str = "/front/image_raw", base: str = "/front", **more: Any) -> CameraReport:
    """Of frames that were recorded a millisecond after their stamps."""
    return CameraReport(
        topic,
        f"{base}/derained/image",
        f"{base}/streak_mask/image",
        **{
            "frames": 15,
            "derained_frames": COUNT,
            "skipped": 2,
            "unreadable": 1,
            "times_ns": [stamp + 1_000_000 for stamp in STAMPS],
            "rain_scores": [index / 100 for index in range(COUNT)],
            "latencies_ms": [20.0 + index for index in range(COUNT)],
            **more,
        },
    )


def recorded(camera: CameraReport) -> tuple[list[Sent], list[Sent]]:
    """What input and output hold of a camera."""
    before = [image(camera.topic, *one) for one in zip(STAMPS, FRAMES, strict=True)]
    after = [image(camera.derained, *one) for one in zip(STAMPS, DERAINED, strict=True)]
    masks = [image(camera.streak_mask, *one, "mono8") for one in zip(STAMPS, MASKS, strict=True)]
    return before, [message for some in zip(after, masks, strict=True) for message in some]


def bag_report(folder: Path, *cameras: CameraReport, **more: Any) -> BagReport:
    facts: dict[str, Any] = {
        "messages": 1234,
        "seconds": 4.0,
        "notes": ["one image is broken"],
        "network": {"weights": "sapnet_fast", "backend": "openvino", "precision": "bf16", "stages": 4, "device": "CPU"},
    }
    return BagReport(str(folder / "in"), str(folder / "out"), list(cameras), **(facts | more))


@pytest.fixture
def report(tmp_path: Path) -> BagReport:
    """Of one camera, whose bags exist."""
    camera = camera_report()
    before, after = recorded(camera)
    write_bag(tmp_path / "in", before)
    write_bag(tmp_path / "out", [*before, *after], "sqlite3")
    return bag_report(tmp_path, camera)


def write(report: BagReport, folder: Path) -> Page:
    write_html(report, folder / "report.html")
    return Page(folder / "report.html")


def test_pictures_are_the_frames_of_the_recordings(report: BagReport, tmp_path: Path) -> None:
    page = write(report, tmp_path)
    shown = [0, 2, 4, 7, 9, 11]
    for pictures, frames in ((page.pictures("rainy"), FRAMES), (page.pictures("derained"), DERAINED)):
        assert len(pictures) == 6
        assert np.abs(np.stack(pictures).astype(int) - np.stack(frames)[shown]).mean() < 3
    np.testing.assert_array_equal([picture[..., 3] for picture in page.pictures("mask")], np.stack(MASKS)[shown])


def test_figures_network_and_notes_are_shown(report: BagReport, tmp_path: Path) -> None:
    page = write(report, tmp_path)
    words = " ".join(page.words.split())
    assert "frames derained 12 frames per second 3.0 median latency 25.5 ms mean rain score 0.055" in words
    assert "messages written 1,234 processing time 4.0 s one image is broken" in words
    assert "/front/image_raw 15 12 2 1 0.055 25.5 ms 30.4 ms 30.9 ms" in words
    assert "weights: sapnet_fast backend: openvino precision: bf16 stages: 4 device: CPU" in words
    assert "Rain score 0.11 0 0.0 s 0.4 s mean 0.055, 0.000 to 0.110" in words
    assert "Latency per frame 31 ms 0 0.0 s 0.4 s p50 25.5 ms, p95 30.4 ms, p99 30.9 ms, longest 31.0 ms" in words


numbers = st.floats(0, 1e7, allow_subnormal=False)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 10**13), numbers), min_size=1, max_size=700))
def test_charts_stay_inside_their_frame(values: list[tuple[int, float]]) -> None:
    camera = camera_report(
        times_ns=sorted(START_NS + time for time, _ in values),
        rain_scores=[value for _, value in values],
        latencies_ms=[value for _, value in values],
    )
    with tempfile.TemporaryDirectory() as folder:
        lines = write(bag_report(Path(folder), camera), Path(folder)).all("polyline")
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
        assert points
        assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in points)


def test_nothing_is_loaded_from_anywhere(report: BagReport, tmp_path: Path) -> None:
    page = write(report, tmp_path)
    links = [attrs[key] for _, attrs in page.elements for key in ("src", "href", "srcset", "action") if key in attrs]
    assert [link for link in links if not link.startswith(("data:image/", "#camera-"))] == []
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    without_pictures = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page.source)
    assert not re.search(r"https?:|//\w|@import|url\(", without_pictures)
    [policy] = [attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'")


HOSTILE = "/\udcff<script>alert(1)</script>\"'&amp;</td></style><img src=x onerror=alert(2)>"


def test_what_a_recording_names_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    harmless = write(bag_report(tmp_path, camera_report()), tmp_path)
    camera = camera_report(HOSTILE)
    hostile = bag_report(tmp_path / HOSTILE.replace("/", ""), camera, notes=[HOSTILE])
    hostile.network[HOSTILE] = HOSTILE
    page = write(hostile, tmp_path)
    for tag in ("script", "style", "img", "meta"):
        assert len(page.all(tag)) == len(harmless.all(tag))
    assert not [attrs for _, attrs in page.elements if "onerror" in attrs]
    assert page.words.count(HOSTILE.replace("\udcff", "?")) >= 4


def test_frames_that_cannot_be_shown_are_left_out(tmp_path: Path) -> None:
    """One is broken, one has no mask; both bags hold other messages at those times, too."""
    camera = camera_report()
    before, after = recorded(camera)
    before[0] = before[0]._replace(data=before[0].data[:60])
    other = [image("/other", stamp, np.zeros((8, 8, 3), np.uint8)) for stamp in STAMPS]
    write_bag(tmp_path / "in", [*other, *before])
    write_bag(tmp_path / "out", [*other, *after[:-1]])
    page = write(bag_report(tmp_path, camera), tmp_path)
    assert [len(page.all("img", name)) for name in ("rainy", "derained", "mask")] == [5, 5, 4]


def test_without_derained_frames_the_counts_remain(report: BagReport, tmp_path: Path) -> None:
    report.cameras = [CameraReport("/front/image_raw", "/front/derained/image", "/front/streak_mask/image", 7, 0, 7)]
    page = write(report, tmp_path)
    assert page.all("svg") == page.all("img") == []
    assert "/front/image_raw 7 0 7 0 – – – –" in " ".join(page.words.split())
    assert "frames derained" in write(bag_report(tmp_path, seconds=0.0), tmp_path).words


def test_fields_of_earlier_versions_are_ignored(report: BagReport, tmp_path: Path) -> None:
    written = asdict(report)
    for values in (written, *written["cameras"]):
        values["former"] = 1
    write_json(tmp_path / "report.json", written)
    assert read_report(tmp_path / "report.json") == report
