"""ROS 1 bags: their messages as ROS 2 has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Writer
from rosbags.typesys import get_types_from_msg

from bag_builders import ROS1_TYPES, START_NS, TYPES, camera, camera_info, cdr, drive, header, recorded, ros1_bag, text
from sapnet.bags import open_recording
from sapnet.bags.cameras import find_cameras
from sapnet.errors import BagError

STRING = "std_msgs/msg/String"
T = TYPES.types
MORE = "uint8[] raw\nfloat32[3] axes\nstring[] names\n"
ODD = f"builtin_interfaces/Time stamp\nbuiltin_interfaces/Duration wait\n{MORE}"
TYPES.register(get_types_from_msg(ODD, "our/msg/Odd"))
ROS1_TYPES.register(get_types_from_msg(f"time stamp\nduration wait\n{MORE}", "our/msg/Odd"))
ROS1_TYPES.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms\n", "tf/msg/tfMessage"))
for types in (TYPES, ROS1_TYPES):  # has a type within it of which ROS 1 spells the fields differently
    types.register(get_types_from_msg("sensor_msgs/CameraInfo info\nint8 lens\n", "our/msg/Rig"))


@pytest.mark.parametrize("compression", ["", *Writer.CompressionFormat.__members__])
def test_messages_are_those_that_ros2_would_have_recorded(tmp_path: Path, compression: str) -> None:
    vector, turn = T["geometry_msgs/msg/Vector3"](1.0, 2.0, 3.0), T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    moved = T["geometry_msgs/msg/TransformStamped"](
        header(START_NS), "lidar", T["geometry_msgs/msg/Transform"](vector, turn)
    )
    info = camera_info("/cam/camera_info", START_NS)
    stamp, wait = T["builtin_interfaces/msg/Time"](3, 4), T["builtin_interfaces/msg/Duration"](5, 6)
    odd = T["our/msg/Odd"](stamp, wait, np.arange(5, dtype=np.uint8), np.arange(3, dtype=np.float32), ["a", "ü"])
    others = [
        info,
        cdr("/tf", START_NS, T["tf2_msgs/msg/TFMessage"]([moved])),
        cdr("/odd", START_NS, odd),
        cdr("/rig", START_NS, T["our/msg/Rig"](TYPES.deserialize_cdr(info.data, info.type), 3)),
        text("/words", START_NS, "grüß"),
    ]
    first, last = camera(2)
    sent = [first, *(message._replace(time_ns=first.time_ns + 1 + n) for n, message in enumerate(others)), last]
    with open_recording(ros1_bag(tmp_path / "in.bag", sent, compression)) as bag:
        assert recorded(bag) == sent
        assert (bag.storage, bag.count, bag.notes) == ("ros1", 7, [])
        assert (bag.start_ns, bag.end_ns) == (first.time_ns, last.time_ns + 1)
        assert [camera.topic.name for camera in find_cameras(bag)] == ["/cam/image_raw"]
        for topic in bag.topics:
            definition = TYPES.generate_msgdef(topic.type, ros_version=2)[0]
            assert (topic.schema.data.decode(), topic.digest) == (definition, TYPES.hash_rihs01(topic.type))
            assert topic.encoding == "cdr"
        assert [m.time_ns for m in bag.messages(bag.topics[:1], first.time_ns + 1)] == [last.time_ns]


def test_latched_topics_are_transient_local_for_each_of_their_publishers(tmp_path: Path) -> None:
    with Writer(tmp_path / "in.bag") as writer:
        for topic, latching in (("/map", 1), ("/map", 1), ("/map", None), ("/odd", None)):
            caller = f"/node{len(writer.connections)}"
            connection = writer.add_connection(topic, STRING, typestore=ROS1_TYPES, callerid=caller, latching=latching)
            writer.write(connection, START_NS, ROS1_TYPES.serialize_ros1(T[STRING](caller), STRING))
    with open_recording(tmp_path / "in.bag") as bag:
        assert [(topic.name, topic.count) for topic in bag.topics] == [("/map", 3), ("/odd", 1)]
        assert [profile.durability for profile in bag.topics[0].qos] == [QosDurability.TRANSIENT_LOCAL] * 2
        assert bag.topics[1].qos == ()
        assert len(list(bag.messages(bag.topics[:1]))) == 3


@pytest.mark.parametrize("name", ["cut.bag", "drive.bag.active"])
def test_a_bag_without_its_index_names_what_repairs_it(tmp_path: Path, name: str) -> None:
    whole = ros1_bag(tmp_path / "whole.bag", drive(5)).read_bytes()
    path = tmp_path / name
    if name == "cut.bag":
        path.write_bytes(whole[: len(whole) * 2 // 3])
    else:  # as rosbag leaves it until it is closed
        index = whole.index(b"index_pos=") + 10
        path.write_bytes(whole[:index] + bytes(8) + whole[index + 8 :])
    expected = rf"{name} cannot be read as a ROS 1 bag: .*; `rosbag reindex` repairs a bag that was cut off"
    with pytest.raises(BagError, match=expected), open_recording(path):
        pass


def test_a_damaged_chunk_is_said(tmp_path: Path) -> None:
    path = ros1_bag(tmp_path / "in.bag", drive(5))
    content = bytearray(path.read_bytes())
    place = content.index(b"BZh") + 20
    content[place : place + 8] = b"\xa5" * 8
    path.write_bytes(content)
    with open_recording(path) as bag:
        assert list(bag.messages()) == []
        assert len(bag.notes) == 1
        assert "in.bag is damaged (" in bag.notes[0]
