"""Message types as a recording defines them: where a stamp is, and which bytes are padding."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from hashlib import blake2b

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sapnet.bags.recording import CDR, Message, Schema, Topic
from sapnet.bags.types import TYPESTORE, MessageError, header_stamp

_HEADER = "std_msgs/msg/Header"


def stamp_of(message: Message) -> int | None:
    """Stamp of a message that begins with a std_msgs/Header, in nanoseconds; None if it has none, or it is unset."""
    store = _store_of(message.topic)
    fields = store.fielddefs[message.topic.type][1] if store else []
    if not fields or fields[0][1][1] != _HEADER:
        return None
    with suppress(MessageError):
        return header_stamp(message.data) or None
    return None


def digest_of(message: Message) -> bytes:
    """Equal for messages with equal fields, whatever their padding and byte order.

    Of the bytes where the type is not known, or where they are not of that type.
    """
    data, type_name, store = message.data, message.topic.type, _store_of(message.topic)
    if store is not None:
        with suppress(SerdeError):
            decoded = store.deserialize_cdr(data, type_name)
            data = bytes(store.serialize_cdr(decoded, type_name, little_endian=True))
    return blake2b(data).digest()


def definition_of(topic: Topic) -> str:
    """The definition of a topic's type without comments and spaces; as it is where it cannot be parsed."""
    store = _store_of(topic)
    return (
        store.generate_msgdef(topic.type, ros_version=2)[0]
        if store
        else f"{topic.schema.encoding} {topic.schema.data.hex()}"
    )


def _store_of(topic: Topic) -> Typestore | None:
    return _parsed(topic.type, topic.schema) if topic.encoding == CDR else None


@cache
def _parsed(type_name: str, schema: Schema) -> Typestore | None:
    """What knows a type: by its definition, else as ROS 2 has it; None where nothing does."""
    if schema.data and schema.encoding == "ros2msg":
        store = get_typestore(Stores.EMPTY)
        # A definition may be anything that was written into the file.
        with suppress(TypesysError, SerdeError, KeyError, ValueError, RecursionError):
            store.register(get_types_from_msg(schema.data.decode(errors="replace"), type_name))
            store.get_msgdef(type_name)
            return store
    return TYPESTORE if type_name in TYPESTORE.fielddefs else None
