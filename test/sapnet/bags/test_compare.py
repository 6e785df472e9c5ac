"""What two recordings have in common, whatever they were written with."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.writer import Writer as McapWriter

from bag_builders import (
    FRAME_NS,
    START_NS,
    Sent,
    camera,
    changed,
    compressed,
    image,
    smooth_frames,
    text,
    wheel,
    write_bag,
)
from sapnet.bags import matching as pairing
from sapnet.bags.compare import Comparison, TopicComparison, compare_bags
from sapnet.bags.recording import Schema, Topic
from sapnet.bags.writer import BagWriter

CAMERA = "/camera/image_raw"
Compare = Callable[..., Comparison]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """``compare(a, b, **options)``: two lists of messages, recorded as mcap, or paths."""
    number = count()

    def run(a: list[Sent] | Path, b: list[Sent] | Path, **options: Any) -> Comparison:
        paths = [some if isinstance(some, Path) else write_bag(tmp_path / f"{next(number)}", some) for some in (a, b)]
        return compare_bags(*paths, **options)

    return run


def only(comparison: Comparison) -> TopicComparison:
    [topic] = comparison.topics
    return topic


def by_name(comparison: Comparison) -> dict[str, TopicComparison]:
    return {topic.topic: topic for topic in comparison.topics}


def stamps(number: int) -> list[int]:
    return [START_NS + index * FRAME_NS for index in range(number)]


def drive(number: int = 5) -> list[Sent]:
    """A camera, text and a type of our own, in turn."""
    others = [(text("/log", stamp, f"{stamp}"), wheel("/wheel", stamp, stamp)) for stamp in stamps(number)]
    return [message for frame, other in zip(camera(number, CAMERA), others, strict=True) for message in (frame, *other)]


def test_a_recording_equals_itself(compare: Compare) -> None:
    comparison = compare(drive(), drive())
    assert comparison.is_equal
    assert [(topic.topic, topic.count_a, topic.equal) for topic in comparison.topics] == [
        (CAMERA, 5, 5),
        ("/log", 5, 5),
        ("/wheel", 5, 5),
    ]
    seen = by_name(comparison)[CAMERA]
    assert (seen.largest_difference, seen.differing_pixels, seen.lowest_psnr) == (0, 0.0, None)
    assert by_name(comparison)["/log"].largest_difference is None


@pytest.mark.parametrize(("late_ns", "pace"), [(0, 1), (3_600 * 10**9, 5)])
@pytest.mark.parametrize(("first", "last"), [(0, 60), (20, 80)])
def test_a_long_hole_is_stepped_over(
    compare: Compare, monkeypatch: pytest.MonkeyPatch, first: int, last: int, late_ns: int, pace: int
) -> None:
    """Far more than may wait. B was recorded so much later, and so much slower, with the same stamps.

    Some stamps are unset, some were made anew, and a latched message was logged at both beginnings. A hole at the
    start is one in all topics: the recorder was late.
    """
    monkeypatch.setattr(pairing, "MAX_WAITING_BYTES", 10_000)
    [frame], jitter = smooth_frames(1, 4, 5), np.random.default_rng(1)
    begin_ns, end_ns = (START_NS + index * FRAME_NS for index in (first, last))
    times = [START_NS + index * FRAME_NS // 2 for index in range(200)]
    common = [*drive(100), *(image("/unset", 0, frame)._replace(time_ns=time) for time in times)]
    messages = [image("/map", 1, frame)._replace(time_ns=START_NS), *common]
    messages += [image("/odometry", time, frame) for time in times]
    later = [sent for sent in common if not begin_ns <= sent.time_ns < end_ns or (first and sent.topic != CAMERA)]
    later += [
        image("/odometry", time + 10**12, frame)._replace(time_ns=time) for time in times[0 if first else 2 * last :]
    ]
    later += [image("/map", 1, frame)._replace(time_ns=START_NS if first else end_ns)]
    later = [
        sent._replace(time_ns=late_ns + pace * (sent.time_ns - START_NS) + int(jitter.integers(30_000_000)))
        for sent in later
    ]
    messages, later = (sorted(some, key=lambda sent: sent.time_ns) for some in (messages, later))
    topic = by_name(compare(messages, later))[CAMERA]
    assert (topic.equal, topic.only_a, topic.only_b) == (100 - (last - first), last - first, 0)
    topic = by_name(compare(later, messages))[CAMERA]
    assert (topic.equal, topic.only_a, topic.only_b) == (100 - (last - first), 0, last - first)


def test_memory_is_bounded_whatever_waits(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that nothing matches, and words of which A has the one topic first and B the other: 34 MB on each side."""
    monkeypatch.setattr(pairing, "MAX_WAITING_BYTES", 2**20)

    def sent(first: str, second: str) -> list[Sent]:
        frames = [image(CAMERA, stamp, np.full((240, 320, 3), 7, np.uint8)) for stamp in stamps(60)]
        words = [
            text(first if index < 30 else second, stamp, f"{index % 30:02}" * 2**17)
            for index, stamp in enumerate(stamps(60))
        ]
        return [message for pair in zip(frames, words, strict=True) for message in pair]

    a, b = sent("/left", "/right"), sent("/right", "/left")
    b = [changed(message, 8) if message.topic == CAMERA else message for message in b]  # other stamps
    tracemalloc.start()
    topics = by_name(compare(a, b))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    frames = topics.pop(CAMERA)
    assert (frames.equal, frames.only_a, frames.only_b) == (0, 60, 60)
    assert all(topic.is_equal for topic in topics.values())
    assert peak < 20 * 2**20


def test_frames_in_another_order_differ(compare: Compare) -> None:
    messages = camera(4, CAMERA)
    swapped = [messages[place]._replace(time_ns=messages[index].time_ns) for index, place in enumerate((0, 2, 1, 3))]
    topic = only(compare(messages, swapped))
    assert topic.reasons["order"] >= 1
    assert topic.only_a == topic.only_b == 0


def test_png_equals_the_raw_image_and_jpeg_nearly(compare: Compare) -> None:
    [frame] = smooth_frames(1)
    raw = [image(CAMERA, START_NS, frame)]
    assert compare(raw, [compressed(CAMERA, START_NS, frame, "png")]).is_equal
    topic = only(compare(raw, [compressed(CAMERA, START_NS, frame)], tolerance=255))
    assert topic.is_equal
    assert (topic.type_a, topic.type_b) == ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
    assert topic.largest_difference is not None
    assert topic.lowest_psnr is not None
    assert 0 < topic.largest_difference < 20
    assert 35 < topic.lowest_psnr < 60
    assert not compare(raw, [compressed(CAMERA, START_NS, frame)]).is_equal


def test_sizes_and_frame_ids_are_compared(compare: Compare) -> None:
    [frame] = smooth_frames(1)
    a = [image(CAMERA, START_NS, frame)]
    assert only(compare(a, [image(CAMERA, START_NS, frame[:20])])).reasons == {"size": 1}
    assert only(compare(a, [image(CAMERA, START_NS, frame, frame_id="rear")])).reasons == {"frame_id": 1}


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_the_low_bytes_of_deep_images_count(compare: Compare, encoding: str) -> None:
    """Of which decoding to 8 bits, or not at all, leaves nothing."""
    depth = (257 * (np.arange(24 * 32) % 200)).astype(np.uint16).reshape(24, 32)
    a, b = [image(CAMERA, START_NS, depth, encoding)], [image(CAMERA, START_NS, depth ^ 1, encoding)]
    assert compare(a, a).is_equal
    assert not compare(a, b).is_equal


def test_images_that_cannot_be_decoded_are_compared_as_bytes(compare: Compare) -> None:
    [frame] = smooth_frames(1)
    whole = compressed(CAMERA, START_NS, frame)
    broken = whole._replace(data=whole.data[:80] + b"\0" * (len(whole.data) - 80))
    cut = whole._replace(data=whole.data[:10])
    assert compare([broken, cut], [broken, cut]).is_equal
    assert only(compare([whole], [broken])).reasons == {"content": 1}


def test_types_of_our_own_are_compared_by_their_fields(compare: Compare) -> None:
    """Byte 5 is padding, byte 4 a truth value; the type is defined in the recording alone."""
    messages = [wheel("/wheel", START_NS, 1.5), wheel("/nothing", START_NS, float("nan"))]
    assert compare(messages, [changed(message, 5) for message in messages]).is_equal
    for place in (4, 12):
        assert only(compare(messages[:1], [changed(messages[0], place)])).reasons == {"content": 1}


@pytest.mark.parametrize("definition", [b"", b"}}} what", b"other_msgs/Missing thing\n", b"float64 float64\n"])
def test_types_that_nothing_defines_are_compared_byte_by_byte(tmp_path: Path, definition: bytes) -> None:
    message = wheel("/wheel", START_NS, 1.5)
    for name, sent in (("a", message), ("b", changed(message, 5))):
        with BagWriter(tmp_path / name, "mcap") as writer:
            topic = Topic("/wheel", message.type, schema=Schema("ros2msg", definition))
            writer.write(writer.add(topic), START_NS, sent.data)
    assert compare_bags(tmp_path / "a", tmp_path / "a").is_equal
    assert only(compare_bags(tmp_path / "a", tmp_path / "b")).reasons == {"content": 1}


def test_a_recording_that_is_cut_off_is_compared_as_far_as_it_goes(compare: Compare, tmp_path: Path) -> None:
    whole = write_bag(tmp_path / "whole", camera(20, height=240, width=320))  # several chunks of them
    [file] = whole.glob("*.mcap")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    comparison = compare(whole, cut)
    assert not comparison.is_equal
    assert comparison.notes_b
    assert not comparison.notes_a


def write_mcap(
    path: Path,
    schema: bytes = b"one",
    encoding: str = "protobuf",
    metadata: str = "front",
    attachment: bytes = b"map",
    record: str = "7",
) -> Path:
    """A file with one protobuf message, and an attachment and a metadata record unless they are empty."""
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("", "test")
        number = writer.register_schema("Pose", "protobuf", schema)
        channel = writer.register_channel("/pose", encoding, number, {"sensor": metadata})
        writer.add_message(channel, START_NS, b"\x08\x01", START_NS)
        if attachment:
            writer.add_attachment(START_NS, START_NS, "map.pgm", "image/x-portable-graymap", attachment)
        if record:
            writer.add_metadata("vehicle", {"vin": record})
        writer.finish()
    return path


@pytest.mark.parametrize(
    ("changes", "channel", "records"),
    [
        ({}, [], {}),
        ({"schema": b"two"}, ["schema"], {}),
        ({"encoding": "json"}, ["encoding"], {}),
        ({"metadata": "rear"}, ["metadata"], {}),
        ({"attachment": b"other"}, [], {"attachment map.pgm": "differs"}),
        (
            {"attachment": b"", "record": "8"},
            [],
            {"attachment map.pgm": "only in A", "metadata record vehicle": "differs"},
        ),
    ],
)
def test_channels_attachments_and_metadata_of_mcap_are_compared(
    compare: Compare, tmp_path: Path, changes: dict[str, Any], channel: list[str], records: dict[str, str]
) -> None:
    a, b = write_mcap(tmp_path / "a.mcap"), write_mcap(tmp_path / "b.mcap", **changes)
    comparison = compare(a, b)
    assert (only(comparison).channel, comparison.records) == (channel, records)
    assert comparison.is_equal == (not changes)
    assert only(comparison).equal == 1
    assert compare(a, b, topics=("/pose",)).records == {}
