"""Recordings that are whole are read as they were written: every storage, compression and version of rosbag2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType, IndexType
from rosbags.interfaces import QosTime
from rosbags.rosbag2 import Reader
from ruamel.yaml import YAML

from bag_builders import (
    START_NS,
    TYPES,
    Sent,
    image,
    mcap_file,
    profile,
    read_bag,
    recorded,
    smooth_frames,
    split_bag,
    text,
    wheel,
    write_bag,
)
from sapnet.bags import open_recording
from sapnet.errors import BagError

STORAGES = ("mcap", "sqlite3")
KINDS = [(storage, mode) for storage in STORAGES for mode in ("none", "message", "file")] + [("mcap", "chunk")]
STRING = "std_msgs/msg/String"
LATCHED = profile("TRANSIENT_LOCAL", 7, QosTime(3, 4))


def ours(path: Path) -> list[Sent]:
    with open_recording(path) as bag:
        messages = recorded(bag)
        assert bag.notes == []
        assert bag.count == len(messages)
        times = [sent.time_ns for sent in messages]
        assert (bag.start_ns, bag.end_ns) == ((min(times), max(times) + 1) if times else (0, 0))
    return messages


def mixed(count: int = 12, start_ns: int = START_NS) -> list[Sent]:
    frame = smooth_frames(1, 2, 3)[0]
    return [
        sent
        for t in range(start_ns, start_ns + count * 10**8, 10**8)
        for sent in (
            image("/cam/image_raw", t, frame),
            text("/größe", t + 10**6, str(t)),
            wheel("/wheel", t + 10**6, t),
        )
    ]


def in_order(messages: list[Sent]) -> list[Sent]:
    return sorted(messages, key=lambda sent: sent.time_ns)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["talker", "wbag"])
def test_recordings_of_rosbag2_itself(shared_data: Path, storage: str, name: str) -> None:
    folder = shared_data / "bags" / storage / name
    files = [file for file in sorted(folder.iterdir()) if file.suffix != ".yaml"]
    # File by file: of a folder the library gives nothing where the files say less of QoS than metadata.yaml.
    expected = [sent for file in files for sent in read_bag(file)]
    assert len(expected) == {"talker": 20, "wbag": 6074}[name]
    assert ours(folder) == expected
    assert [sent for file in files for sent in ours(file)] == expected
    with open_recording(folder) as bag, Reader(folder) as reader:
        assert {(t.name, t.type, t.qos, t.count) for t in bag.topics} == {
            (c.topic, c.msgtype, tuple(c.ext.offered_qos_profiles), c.msgcount) for c in reader.connections
        }
        assert bag.storage == storage


@pytest.mark.parametrize(("storage", "mode"), KINDS)
def test_every_storage_and_compression_in_several_files(tmp_path: Path, storage: str, mode: str) -> None:
    groups = [mixed(4), mixed(5, START_NS + 4 * 10**8), mixed(3, START_NS + 9 * 10**8)]
    bag = split_bag(tmp_path / "bag", groups, storage, mode, (LATCHED,))
    messages = [sent for group in groups for sent in in_order(group)]
    assert ours(bag) == read_bag(bag) == messages
    with open_recording(bag) as source:
        assert source.storage == storage
        assert source.compression == mode
        assert [(topic.name, topic.qos, topic.count) for topic in source.topics] == [
            (name, (LATCHED,), 12) for name in ("/cam/image_raw", "/größe", "/wheel")
        ]
    (bag / "metadata.yaml").unlink()
    with open_recording(bag) as source:
        assert recorded(source) == messages
        assert source.compression == ("none" if mode == "message" else mode)


@pytest.mark.parametrize(
    ("compression", "chunking", "index", "repeated"),
    [
        (CompressionType.ZSTD, True, IndexType.ALL, True),
        (CompressionType.LZ4, True, IndexType.CHUNK, False),
        (CompressionType.NONE, True, IndexType.NONE, True),
        (CompressionType.ZSTD, True, IndexType.NONE, False),
        (CompressionType.NONE, False, IndexType.ALL, True),
        (CompressionType.NONE, False, IndexType.NONE, False),
    ],
)
def test_mcap_of_other_writers(
    tmp_path: Path, compression: CompressionType, chunking: bool, index: IndexType, repeated: bool
) -> None:
    """With and without chunks, indexes and a summary that says all; messages out of order."""
    times = np.random.default_rng(3).permutation(60).tolist()
    path = tmp_path / "a.mcap"
    messages = [text(f"/{'ab'[n % 2]}", t, str(n)) for n, t in enumerate(times)]
    mcap_file(path, messages, 700, compression, index, repeated, repeated, chunking, repeated)
    assert ours(path) == in_order(messages)
    with open_recording(path) as bag:
        assert {topic.digest for topic in bag.topics} == {TYPES.hash_rihs01(STRING)}
        only_b = [recorded.time_ns for recorded in bag.messages(bag.topics[1:], 10, 50)]
        assert only_b == sorted(t for n, t in enumerate(times) if n % 2 and 10 <= t < 50)
        assert bag.compression == ("chunk" if chunking and compression != CompressionType.NONE else "none")


@pytest.mark.parametrize("storage", STORAGES)
def test_an_empty_recording(tmp_path: Path, storage: str) -> None:
    assert ours(write_bag(tmp_path / "bag", [], storage)) == []
    assert ours(write_bag(tmp_path / "topic", [], storage, [("/a", STRING)])) == []


@pytest.mark.parametrize("version", [1, 3, 4, 6, 8, 9])
def test_metadata_of_every_version(tmp_path: Path, version: int) -> None:
    bag = split_bag(tmp_path / "bag", [mixed(2), mixed(2, START_NS + 10**9)], "sqlite3", qos=(LATCHED,))
    content = YAML(typ="safe").load(bag / "metadata.yaml")
    metadata = content["rosbag2_bagfile_information"]
    metadata["version"] = version
    since = {3: ("compression_format", "compression_mode"), 5: ("files",), 6: ("custom_data",), 8: ("ros_distro",)}
    for key in (key for first, keys in since.items() if version < first for key in keys):
        del metadata[key]
    if version < 4:  # paths had the folder's name in them
        metadata["relative_file_paths"] = [f"bag/{name}" for name in metadata["relative_file_paths"]]
    for entry in metadata["topics_with_message_count"]:
        topic = entry["topic_metadata"]
        if version < 7:
            del topic["type_description_hash"]
        if version < 4:
            del topic["offered_qos_profiles"]
        elif version >= 9:
            topic["offered_qos_profiles"] = YAML(typ="safe").load(topic["offered_qos_profiles"])
    YAML(typ="safe").dump(content, bag / "metadata.yaml")
    assert ours(bag) == in_order(mixed(2)) + in_order(mixed(2, START_NS + 10**9))
    with open_recording(bag) as source:
        assert {topic.qos for topic in source.topics} == {(LATCHED,)}


def test_what_is_there_is_said_where_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path, match in (
        (tmp_path / "nowhere", "nowhere does not exist; give a rosbag2 folder"),
        (tmp_path, "holds no recording; expected metadata.yaml and .mcap or .db3 files in it"),
        (tmp_path / "notes.txt", "is no recording; expected a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(BagError, match=match), open_recording(path):
            pass
