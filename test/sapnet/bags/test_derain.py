"""Recordings derained into others: what is passed on, what is added, and under which names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import Reader

import bag_builders as bags
from bag_builders import (
    FRAME_NS,
    START_NS,
    TYPES,
    Sent,
    camera,
    camera_info,
    changed,
    compressed,
    image,
    profile,
    read_bag,
    recorded,
    smooth_frames,
    split_bag,
    text,
    wheel,
    write_bag,
)
from sapnet.bags import Recording, Topic, open_recording
from sapnet.bags.cameras import BagOptions
from sapnet.bags.compare import compare_bags
from sapnet.bags.derain import derain_bag
from sapnet.bags.report import BagReport
from sapnet.bags.writer import BagWriter
from sapnet.derainer import Derainer
from sapnet.errors import BackendError, BagError
from sapnet.images.messages import decode_compressed, decode_image

CAMERA = "/cam/image_raw"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
Read = list[Sent]
Derain = Callable[..., BagReport]


@pytest.fixture
def derain(derainer: Derainer, tmp_path: Path) -> Derain:
    """``derain(messages or path, **options)`` writes ``tmp_path / "out"``."""

    def run(messages: list[Sent] | Path, **options: Any) -> BagReport:
        source = messages if isinstance(messages, Path) else write_bag(tmp_path / "in", messages)
        return derain_bag(derainer, source, tmp_path / "out", BagOptions(**options))

    return run


def ours(messages: Read) -> Read:
    """Without what was derained."""
    return [message for message in messages if "/derained/" not in message[0] and "/streak_mask/" not in message[0]]


def decoded(read_messages: Read, topic: str) -> list[Any]:
    return [TYPES.deserialize_cdr(data, kind) for name, kind, _, data in read_messages if name == topic]


def drive(count: int = 6) -> list[Sent]:
    """A camera, words and a type of our own, in turn."""
    wheels = [wheel("/wheel", START_NS + index * FRAME_NS + 3 * 10**6, index) for index in range(count)]
    return sorted([*bags.drive(count), *wheels], key=lambda message: message.time_ns)


def test_everything_is_passed_on_and_derained_frames_stand_beside_their_source(derain: Derain, tmp_path: Path) -> None:
    sent = drive()
    report = derain(sent)
    got = read_bag(tmp_path / "out")
    assert ours(got) == sent
    images = decoded(got, CAMERA)
    for name in ("/cam/derained/image", "/cam/streak_mask/image"):
        assert [message.header for message in decoded(got, name)] == [message.header for message in images]
        assert [t for topic, _, t, _ in got if topic == name] == [m.time_ns for m in sent if m.topic == CAMERA]
    for before, after in zip(images, decoded(got, "/cam/derained/image"), strict=True):
        assert np.array_equal(decode_image(after).bgr, decode_image(before).bgr)
        assert after.encoding == "bgr8"
    assert all(m.encoding == "mono8" and not m.data.any() for m in decoded(got, "/cam/streak_mask/image"))
    (seen,) = report.cameras
    assert (seen.topic, seen.derained, seen.streak_mask) == (CAMERA, "/cam/derained/image", "/cam/streak_mask/image")
    assert (seen.frames, seen.derained_frames, seen.unreadable, report.messages) == (6, 6, 0, len(got))
    assert seen.times_ns == [m.time_ns for m in sent if m.topic == CAMERA]


def test_the_encoding_stays_where_frames_can_be_written_in_it(derain: Derain, tmp_path: Path) -> None:
    kept = {"bgr8": 3, "rgb8": 3, "bgra8": 4, "rgba8": 4, "mono8": 1}
    others = {"bayer_rggb8": 1, "uyvy": 2, "bgr16": 3}
    rng = np.random.default_rng(1)
    pixels = {
        encoding: rng.integers(0, 256, (48, 64, channels)).astype(np.uint16 if "16" in encoding else np.uint8)
        for encoding, channels in (kept | others).items()
    }
    topics = {encoding: f"/{encoding}/image_raw" for encoding in pixels}
    sent = [image(topics[encoding], START_NS, pixels[encoding], encoding, pad=6) for encoding in pixels]
    derain(sent, topics=tuple(topics.values()))
    got = read_bag(tmp_path / "out")
    for encoding, topic in topics.items():
        before, after = (decoded(got, name)[0] for name in (topic, f"/{encoding}/derained/image"))
        assert after.encoding == (encoding if encoding in kept else "bgr8")
        if encoding in kept:
            assert np.array_equal(after.data.reshape(pixels[encoding].shape), pixels[encoding])
        assert np.array_equal(decode_image(after).bgr, decode_image(before).bgr)


def test_compressed_in_gives_compressed_out(derain: Derain, tmp_path: Path) -> None:
    [frame] = smooth_frames(1, 48, 64)
    derain([compressed(f"/{codec}/image/compressed", START_NS, frame, codec) for codec in ("jpeg", "png")])
    got = read_bag(tmp_path / "out")
    assert (len(got), {kind for _, kind, *_ in got}) == (6, {COMPRESSED})
    for codec in ("jpeg", "png"):
        (before,), (after,), (mask,) = (
            decoded(got, f"/{codec}/{name}/compressed") for name in ("image", "derained/image", "streak_mask/image")
        )
        difference = cv2.absdiff(decode_compressed(after).bgr, decode_compressed(before).bgr).max()
        assert difference == 0 if codec == "png" else difference < 8
        assert after.format == f"bgr8; {codec} compressed bgr8"
        assert bytes(mask.data[:4]) == b"\x89PNG"
        assert not decode_compressed(mask).bgr.any()


def test_derained_frames_in_place_of_the_source(derain: Derain, tmp_path: Path) -> None:
    sent = drive(4)
    derain(sent, replace=True)
    got = read_bag(tmp_path / "out")
    assert [topic for topic, *_ in got].count(CAMERA) == 4
    assert {topic for topic, *_ in got} == {CAMERA, "/cam/streak_mask/image", "/log", "/wheel"}
    # The fake backend changes nothing, so each message is what it was.
    assert [m for m in got if m[0] != "/cam/streak_mask/image"] == sent


def test_nothing_but_what_was_derained(derain: Derain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of a frame each; what follows the last frame comes to nothing."""
    monkeypatch.setattr("sapnet.bags.derain.PART_BYTES", 1)
    report = derain([*drive(4), camera_info("/cam/camera_info", START_NS, 64)], only_derained=True)
    assert (report.messages, len(list((tmp_path / "out").glob("*.mcap")))) == (12, 4)
    with Reader(tmp_path / "out") as reader:
        assert {connection.topic: connection.msgcount for connection in reader.connections} == {
            f"/cam/{name}": 4 for name in ("derained/image", "derained/camera_info", "streak_mask/image")
        }


def test_a_stride_leaves_frames_as_they_are(derain: Derain, tmp_path: Path) -> None:
    report = derain(drive(7), stride=3)
    got = read_bag(tmp_path / "out")
    times = [t for topic, _, t, _ in got if topic == CAMERA]
    assert [t for topic, _, t, _ in got if topic == "/cam/derained/image"] == times[::3]
    assert len(times) == 7
    assert (report.cameras[0].derained_frames, report.cameras[0].skipped) == (3, 4)


def test_a_part_in_time(derain: Derain, tmp_path: Path) -> None:
    sent = drive(20)
    derain(sent, start_s=0.2, duration_s=0.3)
    begin = sent[0].time_ns + 200_000_000
    inside = [m for m in sent if begin <= m.time_ns < begin + 300_000_000]
    got = read_bag(tmp_path / "out")
    assert ours(got) == inside
    assert len(inside) > 10
    (tmp_path / "out").rename(tmp_path / "first")
    assert derain(tmp_path / "in", start_s=(sent[-1].time_ns - sent[0].time_ns) / 1e9).messages == 1  # the last


def test_what_latched_topics_said_before_the_start_is_kept(derain: Derain, tmp_path: Path) -> None:
    sent = [text(topic, START_NS + n * FRAME_NS, str(n)) for n in range(2) for topic in ("/tf_static", "/log")]
    sent += camera(10)
    derain(write_bag(tmp_path / "in", sent, qos={"/tf_static": profile("TRANSIENT_LOCAL")}), start_s=0.2)
    got = read_bag(tmp_path / "out")
    assert [(t, time) for t, _, time, _ in got if "/cam" not in t] == [("/tf_static", START_NS + 200_000_000)]
    assert decoded(got, "/tf_static")[0].data == "1"


def test_outputs_have_the_profiles_of_their_source(derain: Derain, tmp_path: Path) -> None:
    sent, volatile = [image(CAMERA, START_NS, smooth_frames(1, 48, 64)[0])], profile("VOLATILE")
    derain(write_bag(tmp_path / "in", sent, "sqlite3", qos={CAMERA: volatile}))
    with Reader(tmp_path / "out") as reader:
        written = {connection.topic: list(connection.ext.offered_qos_profiles) for connection in reader.connections}
    assert written == {topic: [volatile] for topic in (CAMERA, "/cam/derained/image", "/cam/streak_mask/image")}


def test_camera_info_of_equal_stamp_else_the_newest_else_the_first(derain: Derain, tmp_path: Path) -> None:
    # The first frame comes before any, the third has one of its own, the last one follows none.
    infos = [camera_info("/cam/camera_info", START_NS + index * FRAME_NS, 100 + index) for index in (1, 2)]
    derain(sorted([*camera(4), *infos], key=lambda message: message.time_ns))
    got = read_bag(tmp_path / "out")
    infos = decoded(got, "/cam/derained/camera_info")
    assert [message.width for message in infos] == [101, 101, 102, 102]
    assert [message.header for message in infos] == [message.header for message in decoded(got, CAMERA)]


def test_an_image_that_cannot_be_read_is_passed_on_and_named(derain: Derain, tmp_path: Path) -> None:
    sent = drive(5)
    broken = [index for index, message in enumerate(sent) if message.topic == CAMERA][1:3]
    sent[broken[0]] = sent[broken[0]]._replace(data=sent[broken[0]].data[:-100])
    tiny = image(CAMERA, START_NS, np.zeros((4, 4, 3), np.uint8))
    sent[broken[1]] = sent[broken[1]]._replace(data=tiny.data)
    report = derain(sent)
    got = read_bag(tmp_path / "out")
    assert [m for m in got if m[0] in (CAMERA, "/log", "/wheel")] == sent
    assert (report.cameras[0].derained_frames, report.cameras[0].unreadable) == (3, 2)
    assert [note.partition(" not derained: ")[0] for note in report.notes] == [
        f"image of {CAMERA} at 0.040 s",
        f"image of {CAMERA} at 0.080 s",
    ]
    (tmp_path / "out").rename(tmp_path / "first")
    derain(tmp_path / "in", replace=True)
    assert [m for m in read_bag(tmp_path / "out") if m[0] == CAMERA] == [m for m in sent if m.topic == CAMERA]


def test_a_batch_gives_the_same(derainer: Derainer, tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in", drive(7))
    outputs = []
    for batch in (1, 3, 8):
        derain_bag(derainer, source, tmp_path / f"{batch}", BagOptions(batch=batch))
        outputs.append(read_bag(tmp_path / f"{batch}"))
    assert outputs[0] == outputs[1] == outputs[2]


def test_real_recordings_pass_through_unchanged(derainer: Derainer, shared_data: Path, tmp_path: Path) -> None:
    """What rosbag2 recorded, with a camera added, message for message."""
    for storage in ("mcap", "sqlite3"):
        for name in ("talker", "wbag"):
            source = tmp_path / f"{storage}_{name}"
            with open_recording(shared_data / "bags" / storage / name) as bag:
                sent = recorded(bag)
                frame = image(CAMERA, bag.start_ns, smooth_frames(1, 48, 64)[0])
                write_like(source, bag, frame)
            output = tmp_path / f"{storage}_{name}_out"
            assert derain_bag(derainer, source, output).frames == 1
            got = read_bag(output)
            assert [m for m in got if not m[0].startswith("/cam/")] == sent
            assert len(got) == len(sent) + 3


def write_like(path: Path, bag: Recording, frame: Sent) -> None:
    """The recording with one more message."""
    with BagWriter(path, bag.storage) as writer:
        connections = {topic: writer.add(topic) for topic in bag.topics}
        writer.write(writer.add(Topic(frame.topic, frame.type)), frame.time_ns, frame.data)
        for message in bag.messages():
            writer.write(connections[message.topic], message.time_ns, message.data)


kinds = [("mcap", mode) for mode in ("none", "message", "file", "chunk")]
kinds += [("sqlite3", mode) for mode in ("none", "message", "file")]
times = st.integers(0, 40).map(lambda at: START_NS + at * 10**6) | st.integers(0, 2**60)
words = st.sampled_from((0, 1, 1000, 300_000)).map(lambda length: "x" * length)
messages = st.one_of(
    st.builds(text, st.sampled_from(["/log", "/c/d"]), times, words),
    st.builds(wheel, st.just("/wheel"), times, st.floats()),
    st.builds(image, st.just("/depth"), times, st.just(np.ones((4, 5), np.float32)), st.just("32FC1")),
)


@pytest.mark.parametrize("kind", kinds, ids="-".join)
@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(messages, min_size=1, max_size=8), min_size=1, max_size=3), st.data())
def test_any_recording_is_read_is_copied_and_is_told_from_any_other(
    derainer: Derainer, kind: tuple[str, str], groups: list[list[Sent]], data: st.DataObject
) -> None:
    other_kind = data.draw(st.sampled_from(kinds))
    groups[0] += camera(data.draw(st.integers(1, 4)))
    sent = [one for group in groups for one in sorted(group, key=lambda one: one.time_ns)]
    number = data.draw(st.integers(0, len(groups) - 1))
    place = data.draw(st.integers(0, len(groups[number]) - 1))
    one = groups[number][place]
    other = [[*group] for group in groups]
    other[number][place] = changed(one, -1 if one.type == "sensor_msgs/msg/Image" else -2)  # a text ends with a zero
    first, last = sorted((data.draw(times), data.draw(times)))
    with tempfile.TemporaryDirectory() as folder:
        source, output = split_bag(Path(folder) / "in", groups, *kind), Path(folder) / "out"
        with open_recording(source) as bag:
            assert recorded(bag) == sent
            assert (bag.count, bag.notes) == (len(sent), [])
            assert (bag.start_ns, bag.end_ns) == (min(m.time_ns for m in sent), max(m.time_ns for m in sent) + 1)
            part = [message.data for message in bag.messages(None, first, last)]
        assert part == [message.data for message in sent if first <= message.time_ns < last]
        storage = data.draw(st.sampled_from(["", "mcap", "sqlite3"]))
        derain_bag(derainer, source, output, BagOptions(storage=storage))
        with open_recording(output) as bag:
            assert ours(recorded(bag)) == sent
            compression = "none" if (storage, kind[1]) == ("sqlite3", "chunk") else kind[1]
            assert (bag.storage, bag.compression, bag.custom) == (storage or kind[0], compression, {"vehicle": "7"})
            definitions = [TYPES.generate_msgdef(topic.type, ros_version=2)[0] for topic in bag.topics]
        assert [topic.schema.data.decode() for topic in bag.topics] == definitions
        ignore = ("/cam/derained/*", "/cam/streak_mask/*")
        assert compare_bags(source, output, ignore=ignore).is_equal
        comparison = compare_bags(output, split_bag(Path(folder) / "other", other, *other_kind), ignore=ignore)
    assert [topic.topic for topic in comparison.topics if not topic.is_equal] == [one.topic]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_files_that_overlap_in_time_keep_their_order(tmp_path: Path, derainer: Derainer, storage: str) -> None:
    times = [[0, 30, 60], [20, 50], [10, 70]]
    groups = [[text("/log", START_NS + ns, str(ns)) for ns in group] for group in times]
    groups[0].insert(0, image("/cam/image", START_NS - 10**6, smooth_frames(1)[0]))
    source = split_bag(tmp_path / "in", groups, storage)
    derain_bag(derainer, source, tmp_path / "out")
    with open_recording(tmp_path / "out") as bag:
        read = [message.time_ns - START_NS for message in bag.messages() if message.topic.name == "/log"]
    assert read == [ns for group in times for ns in group]


def test_the_input_may_not_be_derained_already(derain: Derain, derainer: Derainer, tmp_path: Path) -> None:
    derain(drive(2))
    with pytest.raises(BagError, match=r"has /cam/derained/image, /cam/streak_mask/image already"):
        derain_bag(derainer, tmp_path / "out", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_an_output_that_is_there_is_kept(derain: Derain, derainer: Derainer, tmp_path: Path) -> None:
    report = derain(drive(3))
    with pytest.raises(BagError, match="exists already; name another output, or replace it with --overwrite"):
        derain(tmp_path / "in")
    assert derain_bag(derainer, tmp_path / "in", tmp_path / "out", resume=True) == report
    before = read_bag(tmp_path / "out")
    with pytest.raises(BagError, match=r"out is of another job: options was .*; use the same input and options"):
        derain_bag(derainer, tmp_path / "in", tmp_path / "out", BagOptions(replace=True), resume=True)
    derain_bag(derainer, tmp_path / "in", tmp_path / "out", BagOptions(replace=True), overwrite=True)
    assert read_bag(tmp_path / "out") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_run_that_is_to_replace_an_output_resumes(
    derain: Derain, derainer: Derainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derain(drive(6))
    monkeypatch.setattr("sapnet.bags.derain.PART_BYTES", 1)
    before, seen = read_bag(tmp_path / "out"), list[int]()
    with Derainer(backend="fake", fake={"fail_every": 4}) as failing, pytest.raises(BackendError):
        derain_bag(failing, tmp_path / "in", tmp_path / "out", overwrite=True)
    assert read_bag(tmp_path / "out") == before
    (tmp_path / "out").rename(tmp_path / "aside")
    with pytest.raises(BagError, match="continue it with --resume, or replace it with --overwrite"):
        derain(tmp_path / "in")
    (tmp_path / "aside").rename(tmp_path / "out")
    with pytest.raises(BagError, match=r"is of another job: options was .*; use the same input and options, or start"):
        derain_bag(derainer, tmp_path / "in", tmp_path / "out", BagOptions(stride=2), resume=True, overwrite=True)
    arguments: Any = {
        "resume": True,
        "overwrite": True,
        "progress": lambda messages, total, frames: seen.append(frames),
    }
    assert derain_bag(derainer, tmp_path / "in", tmp_path / "out", **arguments).frames == 6
    assert (seen[-1], read_bag(tmp_path / "out")) == (3, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
