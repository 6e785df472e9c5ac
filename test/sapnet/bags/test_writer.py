"""Recordings that are written are read again by this package, by rosbags, and as rosbag2 does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader
from ruamel.yaml import YAML

from bag_builders import recorded
from sapnet.bags import Topic, open_recording
from sapnet.bags.recording import Schema
from sapnet.bags.writer import BagWriter

STRING = "std_msgs/msg/String"
MSG = Schema("ros2msg", b"string data\n")
IDL = Schema(
    "ros2idl", b"=" * 80 + b"\nIDL: a_msgs/msg/A\nmodule a_msgs { module msg { struct A { string data; }; }; };\n"
)
PROFILES = tuple(
    Qos(history, 3, reliability, durability, QosTime(1, 2), QosTime(3, 4), liveliness, QosTime(5, 6), namespaced)
    for history, reliability, durability, liveliness, namespaced in (
        (QosHistory.KEEP_LAST, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, QosLiveliness.AUTOMATIC, False),
        (QosHistory.UNKNOWN, QosReliability.BEST_EFFORT, QosDurability.VOLATILE, QosLiveliness.MANUAL_BY_TOPIC, True),
    )
)
TOPICS = (
    Topic("/a", STRING, PROFILES, MSG, "RIHS01_1", "cdr", 2),
    Topic("/undescribed", "their_msgs/msg/Thing", count=1),
    Topic("/undescribed_too", "their_msgs/msg/Thing", PROFILES[1:]),
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
SENT = [(TOPICS[n].name, TOPICS[n].type, time_ns, data) for n, time_ns, data in MESSAGES]
COMPRESSIONS = [("mcap", "chunk"), ("mcap", "file"), ("sqlite3", "message")]


def write(path: Path, storage: str = "mcap", compression: str = "none") -> Path:
    with BagWriter(path, storage, compression, {"vehicle": "7"}) as writer:
        numbers = [writer.add(topic) for topic in TOPICS]
        for number, time_ns, data in MESSAGES:
            writer.write(numbers[number], time_ns, data)
    return path


@pytest.mark.parametrize(("storage", "compression"), COMPRESSIONS)
def test_what_is_written_is_read(tmp_path: Path, storage: str, compression: str) -> None:
    write(tmp_path / "bag", storage, compression)

    def described(topics: tuple[Topic, ...]) -> list[Any]:
        return [(t.name, t.type, t.qos, t.schema, t.digest, t.encoding, t.count) for t in topics]

    with open_recording(tmp_path / "bag") as bag:
        assert described(bag.topics) == described(TOPICS)
        assert recorded(bag) == SENT
        assert (bag.storage, bag.compression, bag.notes, bag.custom) == (storage, compression, [], {"vehicle": "7"})
    with Reader(tmp_path / "bag") as reader:
        assert [(c.topic, c.msgtype, time_ns, bytes(data)) for c, time_ns, data in reader.messages()] == SENT
        assert [(c.topic, tuple(c.ext.offered_qos_profiles), c.msgdef.data) for c in reader.connections] == [
            (topic.name, topic.qos, topic.schema.data.decode()) for topic in TOPICS
        ]


@pytest.mark.parametrize("compression", ["none", "file"])
def test_metadata_is_what_rosbag2_parses(tmp_path: Path, compression: str) -> None:
    """Each field that rosbag2_storage/yaml.hpp reads of version 8, of the type that it converts to."""
    write(tmp_path / "bag", compression=compression)
    (root,) = YAML(typ="safe").load(tmp_path / "bag" / "metadata.yaml").items()
    name = "bag_0.mcap" if compression == "none" else "bag_0.mcap.zstd"
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
