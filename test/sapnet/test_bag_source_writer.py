"""Recordings that are written again: what was read is read once more, by us, by the library, and as rosbag2 expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    MessageDefinition,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader
from ruamel.yaml import YAML

from bag_builders import START_NS, Sent, image, smooth_frames, text, wheel, write_bag
from sapnet.bags import Topic, open_recording
from sapnet.bags.writer import BagWriter

STRING = "std_msgs/msg/String"
NONE = MessageDefinition(MessageDefinitionFormat.NONE, "")
IDL = MessageDefinition(
    MessageDefinitionFormat.IDL,
    "=" * 80 + "\nIDL: a_msgs/msg/A\nmodule a_msgs { module msg { struct A { string data; }; }; };\n",
)
PROFILES = tuple(
    Qos(history, 3, reliability, durability, QosTime(1, 2), QosTime(3, 4), liveliness, QosTime(5, 6), namespaced)
    for history, reliability, durability, liveliness, namespaced in (
        (QosHistory.KEEP_LAST, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, QosLiveliness.AUTOMATIC, False),
        (QosHistory.UNKNOWN, QosReliability.BEST_EFFORT, QosDurability.VOLATILE, QosLiveliness.MANUAL_BY_TOPIC, True),
    )
)
TOPICS = (
    Topic(
        "/a", STRING, PROFILES, MessageDefinition(MessageDefinitionFormat.MSG, "string data\n"), "RIHS01_1", "cdr", 2
    ),
    Topic("/undescribed", "their_msgs/msg/Thing", (), NONE, "", "cdr", 1),
    Topic("/undescribed_too", "their_msgs/msg/Thing", PROFILES[1:], NONE, "", "cdr", 0),
    Topic("größe/_service_event", "a_msgs/msg/A", (), IDL, "RIHS01_2", "cdr", 1),
    Topic("/a", "a_msgs/msg/A", (), IDL, "RIHS01_2", "cdr", 1),
)
MESSAGES = [
    (0, 5, b"\0\1\0\0abc"),
    (1, 6, b"\0\1\0\0"),
    (0, 6, b"\0\1\0\0d"),
    (3, 7, b"\0\1\0\0e"),
    (4, 8, b"\0\1\0\0f"),
]
COMPRESSIONS = [
    (storage, compression)
    for storage in ("mcap", "sqlite3")
    for compression in ("none", "message", "file", "chunk")
    if (storage, compression) != ("sqlite3", "chunk")
]


def described(topics: tuple[Topic, ...]) -> list[Any]:
    return [(t.name, t.type, t.qos, t.definition, t.digest, t.serialization, t.count) for t in topics]


@pytest.mark.parametrize(("storage", "compression"), COMPRESSIONS)
def test_what_is_written_is_read(tmp_path: Path, storage: str, compression: str) -> None:
    with BagWriter(tmp_path / "bag", storage, compression) as writer:
        connections = [writer.add(topic) for topic in TOPICS]
        for number, time_ns, data in MESSAGES:
            writer.write(connections[number], time_ns, data)
    with open_recording(tmp_path / "bag") as bag:
        assert described(bag.topics) == described(TOPICS)
        read = [(topic.name, topic.type, time_ns, data) for topic, time_ns, data in bag.messages()]
        assert read == [(TOPICS[n].name, TOPICS[n].type, time_ns, data) for n, time_ns, data in MESSAGES]
        assert (bag.storage, bag.compression, bag.notes) == (storage, compression, [])
    with Reader(tmp_path / "bag") as reader:
        theirs = [(c.topic, c.msgtype, time_ns, bytes(data)) for c, time_ns, data in reader.messages()]
        assert theirs == read
        # Two of one name and no profile of its own are one to the library.
        assert [(c.topic, tuple(c.ext.offered_qos_profiles), c.msgdef) for c in reader.connections] == [
            (topic.name, topic.qos, topic.definition) for topic in TOPICS
        ]


@pytest.mark.parametrize("source", ["mcap", "sqlite3"])
@pytest.mark.parametrize("target", ["mcap", "sqlite3"])
def test_a_recording_written_again_is_the_same(tmp_path: Path, source: str, target: str) -> None:
    frame = smooth_frames(1)[0]
    sent = [image("/i", START_NS, frame), text("/t", START_NS + 2 * 10**6, "x"), wheel("/w", START_NS + 3 * 10**6, 2.0)]
    with open_recording(write_bag(tmp_path / "in", sent, source, [("/silent", "sensor_msgs/msg/Imu")])) as bag:
        with BagWriter(tmp_path / "out", target) as writer:
            connections = {topic: writer.add(topic) for topic in bag.topics}
            for topic, time_ns, data in bag.messages():
                writer.write(connections[topic], time_ns, data)
        with open_recording(tmp_path / "out") as again:
            assert described(again.topics) == described(bag.topics)
            assert [Sent(t.name, t.type, ns, data) for t, ns, data in again.messages()] == sent
    with AnyReader([tmp_path / "out"]) as reader:
        decoded = [reader.deserialize(data, connection.msgtype) for connection, _, data in reader.messages()]
        assert decoded[0].data.tolist() == frame.reshape(-1).tolist()
        assert (decoded[1].data, decoded[2].speed) == ("x", 2.0)


@pytest.mark.parametrize("compression", ["none", "file"])
def test_metadata_is_what_rosbag2_parses(tmp_path: Path, compression: str) -> None:
    """Each field that rosbag2_storage/yaml.hpp takes of version 8, of the type that it converts to."""
    with BagWriter(tmp_path / "bag", "mcap", compression) as writer:
        connections = [writer.add(topic) for topic in TOPICS]
        writer.set_custom_data("vehicle", "7")
        for number, time_ns, data in MESSAGES:
            writer.write(connections[number], time_ns, data)
    (root,) = YAML(typ="safe").load(tmp_path / "bag" / "metadata.yaml").items()
    name = "bag.mcap" if compression == "none" else "bag.mcap.zstd"
    first, *others = root[1]["topics_with_message_count"]
    qos = first["topic_metadata"].pop("offered_qos_profiles")
    assert isinstance(qos, str)  # until version 8, with numbers in it
    assert [(entry["history"], entry["reliability"], entry["durability"]) for entry in YAML(typ="safe").load(qos)] == [
        (1, 1, 1),
        (3, 2, 2),
    ]
    assert first == {
        "topic_metadata": {
            "name": "/a",
            "type": STRING,
            "serialization_format": "cdr",
            "type_description_hash": "RIHS01_1",
        },
        "message_count": 2,
    }
    assert all(isinstance(e["topic_metadata"]["offered_qos_profiles"], str) for e in others)
    del root[1]["topics_with_message_count"]
    span = {"starting_time": {"nanoseconds_since_epoch": 5}, "duration": {"nanoseconds": 3}, "message_count": 5}
    assert root == (
        "rosbag2_bagfile_information",
        {
            "version": 8,
            "storage_identifier": "mcap",
            **span,
            "compression_format": "" if compression == "none" else "zstd",
            "compression_mode": "" if compression == "none" else "file",
            "relative_file_paths": [name],
            "files": [{"path": name, **span}],
            "custom_data": {"vehicle": "7"},
            "ros_distro": "rosbags",
        },
    )


def test_fields_are_those_of_rosbag2s_own_metadata(tmp_path: Path, shared_data: Path) -> None:
    for storage in ("mcap", "sqlite3"):
        with (
            open_recording(shared_data / "bags" / storage / "talker") as bag,
            BagWriter(tmp_path / storage, storage) as writer,
        ):
            connections = {topic: writer.add(topic) for topic in bag.topics}
            for topic, time_ns, data in bag.messages():
                writer.write(connections[topic], time_ns, data)
        real, ours = (
            YAML(typ="safe").load(folder / "metadata.yaml")["rosbag2_bagfile_information"]
            for folder in (shared_data / "bags" / storage / "talker", tmp_path / storage)
        )
        for key in ("storage_identifier", "duration", "starting_time", "message_count", "compression_mode"):
            assert ours[key] == real[key], key
        assert real.keys() <= ours.keys()
        topics = {entry["topic_metadata"]["name"]: entry for entry in ours["topics_with_message_count"]}
        for entry in real["topics_with_message_count"]:
            written = topics[entry["topic_metadata"]["name"]]
            assert written["message_count"] == entry["message_count"]
            load = YAML(typ="safe").load
            described_qos = [load(e["topic_metadata"]["offered_qos_profiles"])[0] for e in (written, entry)]
            assert described_qos[0].keys() == described_qos[1].keys()
            for key in ("history", "depth", "reliability", "durability", "liveliness"):
                assert described_qos[0][key] == described_qos[1][key]
            del written["topic_metadata"]["type_description_hash"]
            assert written["topic_metadata"].keys() == entry["topic_metadata"].keys()


def test_mcap_is_sound_to_its_own_library(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", "mcap", "chunk") as writer:
        connections = [writer.add(topic) for topic in TOPICS]
        for number, time_ns, data in MESSAGES:
            writer.write(connections[number], time_ns, data)
    with (tmp_path / "bag" / "bag.mcap").open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary is not None
        hashes = {c.topic + summary.schemas[c.schema_id].name: c.metadata for c in summary.channels.values()}
        assert hashes["/a" + STRING]["topic_type_hash"] == "RIHS01_1"
        assert set(hashes["/a" + STRING]) == {"offered_qos_profiles", "topic_type_hash"}
        read = [(channel.topic, schema.name, m.log_time, m.data) for schema, channel, m in reader.iter_messages()]
        assert read == [(TOPICS[n].name, TOPICS[n].type, time_ns, data) for n, time_ns, data in MESSAGES]
