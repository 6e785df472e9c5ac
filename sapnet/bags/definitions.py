"""Message types as a recording defines them: where a stamp is, and which bytes are padding."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b

from rosbags.interfaces.typing import Typesdict
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sapnet.bags.recording import CDR, Message, Schema, Topic
from sapnet.bags.types import TYPESTORE, MessageError, header_stamp

_HEADER = "std_msgs/msg/Header"
_IDL = ("ros2idl", "omgidl")
# The line that rosbag2 writes above each part of a definition in IDL.
_RULE = "=" * 80 + "\n"


class Definitions:
    """Message types as the topics of a recording define them, else as ROS 2 does. Each is parsed on first use."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self._defined = {
            topic.type: topic.schema
            for topic in topics
            if topic.encoding == CDR and topic.schema.data and topic.schema.encoding in ("ros2msg", *_IDL)
        }
        self._stores: dict[str, Typestore | None] = {}

    def stamp(self, message: Message) -> int | None:
        """Stamp of a message that begins with a std_msgs/Header, in nanoseconds; None if it has none, or is cut off."""
        store = self._store(message.topic)
        fields = store.fielddefs[message.topic.type][1] if store else []
        if not fields or fields[0][1][1] != _HEADER:
            return None
        try:
            return header_stamp(message.data)
        except MessageError:
            return None

    def digest(self, message: Message) -> bytes:
        """Equal for messages with equal fields, whatever their padding and byte order.

        Of the bytes where the type is not known, or where they are not of that type.
        """
        data, type_name, store = message.data, message.topic.type, self._store(message.topic)
        if store is not None:
            with suppress(SerdeError):
                decoded = store.deserialize_cdr(data, type_name)
                data = bytes(store.serialize_cdr(decoded, type_name, little_endian=True))
        return blake2b(data, digest_size=32).digest()

    def text(self, topic: Topic) -> str:
        """The definition of its type written anew: equal fields give equal text. Empty for an unknown type."""
        store = self._store(topic)
        return store.generate_msgdef(topic.type, ros_version=2)[0] if store else ""

    def _store(self, topic: Topic) -> Typestore | None:
        """What knows the type of a topic; None where nothing does."""
        if topic.encoding != CDR:
            return None
        if topic.type not in self._stores:
            self._stores[topic.type] = self._parsed(topic.type)
        return self._stores[topic.type]

    def _parsed(self, type_name: str) -> Typestore | None:
        standard = TYPESTORE if type_name in TYPESTORE.fielddefs else None
        if type_name not in self._defined:
            return standard
        store = get_typestore(Stores.EMPTY)
        try:
            store.register(_types(type_name, self._defined[type_name]))
            store.get_msgdef(type_name)
        # A definition may be anything that was written into the file.
        except (TypesysError, SerdeError, KeyError, ValueError, RecursionError):
            return standard
        return store


def _types(type_name: str, schema: Schema) -> Typesdict:
    text = schema.data.decode(errors="replace")
    if schema.encoding not in _IDL:
        return get_types_from_msg(text, type_name)
    types: Typesdict = {}
    for part in filter(None, text.split(_RULE)):
        # The library's parser knows no directives; the files that they include are the other parts.
        lines = [line for line in part.splitlines() if not line.startswith(("IDL: ", "#"))]
        types.update(get_types_from_idl("\n".join(lines)))
    return types
