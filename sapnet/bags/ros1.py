"""ROS 1 bags, their messages converted to CDR as they are read."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from rosbags.convert.converter import create_connections_converters
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag1 import ReaderError
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from sapnet.bags.source import BagSource, Recorded, Topic
from sapnet.errors import BagError, describe

Convert = Callable[["bytes | memoryview"], memoryview]


@contextmanager
def open_ros1(path: Path, scratch: Path) -> Iterator[BagSource]:
    """Open a .bag file; types that ROS 2 has are written as ROS 2 defines them, others keep their definition.

    scratch: an empty folder. Raises BagError.
    """
    try:
        reader = AnyReader([path])
        reader.open()
    except (AnyReaderError, OSError) as err:
        raise BagError(
            f"{path} cannot be read as a ROS 1 bag: {err}; `rosbag reindex` mends what is repairable"
        ) from err
    try:
        topics, converters = _converted(reader, scratch / "types")
        notes: list[str] = []

        def read(wanted: Collection[Topic], start_ns: int | None, stop_ns: int | None) -> Iterator[Recorded]:
            connections = [c for c in reader.connections if topics[c.id] in wanted]
            unconverted: Counter[str] = Counter()
            try:
                for connection, time_ns, data in reader.messages(connections, start_ns, stop_ns):
                    try:
                        converted = bytes(converters[connection.msgtype](data))
                    # What the library raises depends on the byte that is wrong.
                    except Exception:
                        unconverted[connection.topic] += 1
                    else:
                        yield Recorded(topics[connection.id], time_ns, converted)
            except (AnyReaderError, ReaderError) as err:
                notes.append(f"{path.name} is damaged ({err}): read as far as it goes")
            notes.extend(f"{count} messages of {topic} are damaged: left out" for topic, count in unconverted.items())

        span = (reader.start_time, reader.end_time) if reader.message_count else (0, 0)
        yield BagSource(path, "ros1", "none", tuple(dict.fromkeys(topics.values())), span, notes, read)
    finally:
        reader.close()


def _converted(reader: AnyReader, folder: Path) -> tuple[dict[int, Topic], dict[str, Convert]]:
    """The topic of each of the reader's connections, and for each ROS 1 type what converts it."""
    writer = Writer(folder, version=8)
    writer.open()  # nothing but topics is written there
    try:
        with redirect_stdout(io.StringIO()):  # the library prints what it does
            connections, converters = create_connections_converters(
                reader.connections, get_typestore(Stores.ROS2_JAZZY), reader, writer
            )
    except Exception as err:
        raise BagError(f"{reader.paths[0]} holds types that cannot be converted: {describe(err)}") from err
    finally:
        writer.abort()
    made: dict[int, Topic] = {}
    for connection in {id(c): c for c in connections.values()}.values():
        sources = [c for c in reader.connections if connections[c.id, c.owner] is connection]
        topic = _topic(connection, sum(source.msgcount for source in sources))
        made |= {source.id: topic for source in sources}
    return made, converters


def _topic(connection: Connection, count: int) -> Topic:
    assert isinstance(connection.ext, ConnectionExtRosbag2)
    qos = tuple(connection.ext.offered_qos_profiles)
    return Topic(connection.topic, connection.msgtype, qos, connection.msgdef, connection.digest, "cdr", count)
