"""ROS 1 bags: their messages as ROS 2 has them, field by field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from bag_builders import START_NS, TYPES
from sapnet.bags import Recording, open_recording
from sapnet.bags.cameras import find_cameras
from sapnet.errors import BagError

ROS1 = get_typestore(Stores.ROS1_NOETIC)
ROS1.register(
    get_types_from_msg("time stamp\nduration wait\nuint8[] raw\nfloat32[3] axes\nstring[] names\n", "our/msg/Odd")
)
# Has a type of ROS 2 within it, of which ROS 1 spells the fields differently.
ROS1.register(get_types_from_msg("sensor_msgs/CameraInfo info\nint8 lens\n", "our/msg/Rig"))
# Of ROS 1's first years.
ROS1.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms\n", "tf/msg/tfMessage"))
T = ROS1.types
IMAGE, INFO, STRING = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "std_msgs/msg/String"
Write = Callable[..., Path]


def header(stamp_ns: int = START_NS) -> Any:
    stamp = T["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return T["std_msgs/msg/Header"](7, stamp, "camera")


def info() -> Any:
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    numbers = np.arange(5.0), np.arange(9.0), np.arange(9.0) + 1, np.arange(12.0)
    return T[INFO](header(), 4, 6, "plumb_bob", *numbers, 0, 0, roi)


def image(value: int) -> Any:
    return T[IMAGE](header(), 2, 3, "bgr8", 0, 9, np.full(18, value, np.uint8))


def transforms() -> Any:
    vector, turn = T["geometry_msgs/msg/Vector3"](1.0, 2.0, 3.0), T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    moved = T["geometry_msgs/msg/Transform"](vector, turn)
    return T["tf/msg/tfMessage"]([T["geometry_msgs/msg/TransformStamped"](header(), "lidar", moved)])


def odd() -> Any:
    stamp, wait = T["builtin_interfaces/msg/Time"](3, 4), T["builtin_interfaces/msg/Duration"](5, 6)
    return T["our/msg/Odd"](stamp, wait, np.arange(5, dtype=np.uint8), np.arange(3, dtype=np.float32), ["a", "ü"])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write((topic, message, latching), ...)`` writes a bag, a message each millisecond."""

    def run(*sent: tuple[Any, ...], compression: Any = None, chunk_bytes: int = 0) -> Path:
        writer = Writer(tmp_path / "in.bag")
        if compression:
            writer.set_compression(compression)
        writer.chunk_threshold = chunk_bytes or writer.chunk_threshold
        with writer:
            connections: dict[Any, Any] = {}
            for number, (topic, message, *latching) in enumerate(sent):
                key = topic, message.__msgtype__, *latching
                if key not in connections:
                    caller = f"/node{len(connections)}"
                    connections[key] = writer.add_connection(
                        *key[:2], typestore=ROS1, callerid=caller, latching=len(latching)
                    )
                data = ROS1.serialize_ros1(message, message.__msgtype__)
                writer.write(connections[key], START_NS + number * 10**6, data)
        return tmp_path / "in.bag"

    return run


def fields(value: Any) -> Any:
    """All of a message but its type: lists of names without case, and values."""
    if hasattr(value, "__msgtype__"):
        return [(n.lower(), fields(v)) for n, v in vars(value).items() if n not in ("seq", "__msgtype__")]
    if isinstance(value, (list, tuple)):
        return [fields(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def store(bag: Recording) -> Any:
    """What knows the types as the recording defines them."""
    types = get_typestore(Stores.ROS2_JAZZY)
    for topic in bag.topics:
        new = get_types_from_msg(topic.schema.data.decode(), topic.type)
        types.register({name: defined for name, defined in new.items() if name not in types.fielddefs})
    return types


@pytest.mark.parametrize("compression", [None, *Writer.CompressionFormat])
def test_messages_are_equal_field_by_field(write: Write, compression: Any) -> None:
    sent = [
        ("/cam/image_raw", image(5)),
        ("/cam/camera_info", info()),
        ("/tf", transforms()),
        ("/odd", odd()),
        ("/rig", T["our/msg/Rig"](info(), 3)),
        ("/words", T[STRING]("grüß")),
        ("/cam/image_raw", image(6)),
    ]
    with open_recording(write(*sent, compression=compression)) as bag:
        types = store(bag)
        read = list(bag.messages())
        assert [(r.topic.name, r.time_ns) for r in read] == [
            (topic, START_NS + number * 10**6) for number, (topic, _) in enumerate(sent)
        ]
        for recorded, (_, message) in zip(read, sent, strict=True):
            assert fields(types.deserialize_cdr(recorded.data, recorded.topic.type)) == fields(message)
        assert (bag.storage, bag.count, bag.notes) == ("ros1", 7, [])
        assert (bag.start_ns, bag.end_ns) == (START_NS, START_NS + 6 * 10**6 + 1)
        assert [camera.topic.name for camera in find_cameras(bag)] == ["/cam/image_raw"]
        described = {topic.name: (topic.type, topic.schema.data.decode(), topic.digest) for topic in bag.topics}
        for name, kind in (("/cam/image_raw", IMAGE), ("/cam/camera_info", INFO), ("/tf", "tf2_msgs/msg/TFMessage")):
            assert described[name] == (kind, TYPES.generate_msgdef(kind, ros_version=2)[0], TYPES.hash_rihs01(kind))
        kind, text, digest = described["/odd"]
        assert (kind, digest) == ("our/msg/Odd", types.hash_rihs01("our/msg/Odd"))
        assert "builtin_interfaces/Time stamp" in text
        assert {topic.encoding for topic in bag.topics} == {"cdr"}
        assert [r.time_ns for r in bag.messages(bag.topics[:1], START_NS + 1)] == [START_NS + 6 * 10**6]


def test_latched_topics_are_transient_local_for_each_of_their_publishers(write: Write) -> None:
    sent = [("/map", T[STRING]("a"), "latched"), ("/map", T[STRING]("b"), "latched", "too"), ("/map", T[STRING]("c"))]
    with open_recording(write(*sent, ("/odd", odd()))) as bag:
        assert [(topic.name, topic.count) for topic in bag.topics] == [("/map", 3), ("/odd", 1)]
        assert [profile.durability for profile in bag.topics[0].qos] == [QosDurability.TRANSIENT_LOCAL] * 2
        assert bag.topics[1].qos == ()
        assert len(list(bag.messages(bag.topics[:1]))) == 3


@pytest.mark.parametrize("name", ["cut.bag", "drive.bag.active"])
def test_a_bag_without_its_index_names_what_repairs_it(write: Write, tmp_path: Path, name: str) -> None:
    whole = write(*(("/words", T[STRING](f"{n}")) for n in range(5))).read_bytes()
    path = tmp_path / name
    if name == "cut.bag":
        path.write_bytes(whole[: len(whole) * 2 // 3])
    else:  # as rosbag leaves it until it is closed
        index = whole.index(b"index_pos=") + 10
        path.write_bytes(whole[:index] + bytes(8) + whole[index + 8 :])
    expected = rf"{name} cannot be read as a ROS 1 bag: .*; `rosbag reindex` repairs a bag that was cut off"
    with pytest.raises(BagError, match=expected), open_recording(path):
        pass


def test_a_damaged_chunk_is_said(write: Write, tmp_path: Path) -> None:
    path = write(*(("/i", image(n)) for n in range(5)), compression=Writer.CompressionFormat.BZ2)
    content = bytearray(path.read_bytes())
    place = content.index(b"BZh") + 20
    content[place : place + 8] = b"\xa5" * 8
    path.write_bytes(content)
    with open_recording(path) as bag:
        assert list(bag.messages()) == []
        assert len(bag.notes) == 1
        assert "in.bag is damaged (" in bag.notes[0]
