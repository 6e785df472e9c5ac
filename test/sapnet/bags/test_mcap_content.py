"""A copy of an mcap recording keeps what is in it byte for byte, whatever its encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader
from mcap.records import Attachment, Metadata
from mcap.stream_reader import StreamReader
from mcap.writer import IndexType
from mcap.writer import Writer as McapWriter

from bag_builders import START_NS, image, smooth_frames
from sapnet.bags.derain import derain_bag
from sapnet.bags.open import open_recording
from sapnet.derainer import Derainer
from sapnet.files import natural_key

IMAGE = "sensor_msgs/msg/Image"
# Topic, message encoding, schema (name, encoding, data) or None, channel metadata, message.
CHANNELS: list[tuple[str, str, tuple[str, str, bytes] | None, dict[str, str], bytes]] = [
    ("/pose", "protobuf", ("foxglove.Pose", "protobuf", b"\n\x07\x00\xff\xfe"), {"k": "v", "a": ""}, b"\x08\x01"),
    ("/pose", "protobuf", ("foxglove.Pose", "protobuf", b"\n\x07\x00\xff\xfe"), {"publisher": "two"}, b"\x08\x02"),
    ("/state", "json", ("State", "jsonschema", b'{"type": "object"}'), {}, b'{"on": true}'),
    ("/scan", "flatbuffer", ("foxglove.Scan", "flatbuffer", bytes(range(256))), {}, b"\x10\0\0\0"),
    ("/old", "ros1", ("std_msgs/String", "ros1msg", b"string data\n"), {"callerid": "/n"}, b"\x01\0\0\0x"),
    ("/raw", "", None, {}, b"\x28\xb5\x2f\xfd no zstd"),
    ("/log", "json", None, {"source": "app"}, b"{}"),
]


def write(path: Path, **options: Any) -> Path:
    frame = image("/cam/image_raw", START_NS, smooth_frames(1, 48, 64)[0])
    with path.open("wb") as stream:
        writer = McapWriter(stream, **options)
        writer.start("their profile", "test")
        writer.add_metadata("vehicle", {"vin": "7", "empty": ""})
        for number, (topic, encoding, schema, metadata, data) in enumerate(CHANNELS):
            schema_id = writer.register_schema(*schema) if schema else 0
            channel = writer.register_channel(topic, encoding, schema_id, metadata)
            writer.add_message(channel, START_NS + number, data, START_NS - number, number + 1)
        channel = writer.register_channel("/cam/image_raw", "cdr", writer.register_schema(IMAGE, "ros2msg", b"x"))
        writer.add_message(channel, START_NS + 20, frame.data, START_NS)
        writer.add_attachment(5, START_NS + 6, "calibration.bin", "application/octet-stream", bytes(range(256)) * 9)
        writer.finish()
    return path


def content(*paths: Path) -> dict[str, Any]:
    """What the mcap library reads, apart from ids and what the derained topics add."""
    found: dict[str, Any] = {"messages": [], "records": [], "profiles": set()}
    for path in paths:
        with path.open("rb") as stream:
            records = [record for record in StreamReader(stream).records if isinstance(record, Attachment | Metadata)]
            found["records"] += [record for record in records if record.name != "rosbag2"]
            stream.seek(0)
            reader = make_reader(stream, validate_crcs=True)
            found["profiles"].add(reader.get_header().profile)
            for schema, channel, message in reader.iter_messages():
                if not channel.topic.startswith(("/cam/derained", "/cam/streak")):
                    described = (schema.name, schema.encoding, schema.data) if schema else None
                    times = message.log_time, message.publish_time, message.sequence
                    found["messages"].append(
                        (channel.topic, channel.message_encoding, described, channel.metadata, times, message.data)
                    )
    return found


@pytest.mark.parametrize("options", [{}, {"use_chunking": False}, {"index_types": IndexType.NONE}], ids=str)
def test_channels_schemas_attachments_and_metadata_are_kept(
    tmp_path: Path, derainer: Derainer, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, also in a copy in several parts."""
    monkeypatch.setattr("sapnet.bags.derain.PART_BYTES", 3)
    source = write(tmp_path / "in.mcap", **options)
    report = derain_bag(derainer, source, tmp_path / "out")
    assert (report.frames, report.notes, report.is_partial) == (1, [], False)
    files = sorted((tmp_path / "out").glob("*.mcap"), key=lambda file: natural_key(file.name))
    assert len(files) > 3
    before, after = content(source), content(*files)
    assert len(before["messages"]) == len(CHANNELS) + 1
    assert {type(record) for record in before["records"]} == {Metadata, Attachment}
    by_kind = [sorted(found["records"], key=str) for found in (before, after)]
    assert by_kind[0] == by_kind[1]
    assert {**after, "records": []} == {**before, "records": []}


@pytest.mark.parametrize(
    "profile", ["- {history: 1, depth: q0, reliability: 1, durability: 2}", "[" * 1_000], ids=["text", "deep"]
)
def test_a_damaged_qos_profile_costs_the_profile_alone(tmp_path: Path, profile: str) -> None:
    with (tmp_path / "a.mcap").open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2", "test")
        channel = writer.register_channel("/log", "cdr", 0, {"offered_qos_profiles": profile})
        writer.add_message(channel, START_NS, b"{}", START_NS)
        writer.finish()
    with open_recording(tmp_path / "a.mcap") as bag:
        assert [topic.qos for topic in bag.topics] == [()]
        assert len([*bag.messages()]) == 1
