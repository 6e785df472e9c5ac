"""Message types as a recording defines them: where a stamp is, and which bytes are padding."""

from __future__ import annotations

from collections.abc import Iterable

from rosbags.interfaces.typing import Typesdict
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sapnet.bags.recording import CDR, Schema, Topic
from sapnet.bags.types import TYPESTORE

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

    def is_stamped(self, type_name: str) -> bool:
        """Whether messages of this type begin with a std_msgs/Header."""
        store = self._store(type_name)
        fields = store.fielddefs[type_name][1] if store else []
        return bool(fields) and fields[0][1][1] == _HEADER

    def canonical(self, data: bytes, type_name: str) -> bytes:
        """A CDR message written anew: equal fields give equal bytes, whatever padding and byte order were.

        The message as it is where its type is not known, or where it is not one of that type.
        """
        store = self._store(type_name)
        if store is None:
            return data
        try:
            message = store.deserialize_cdr(data, type_name)
            return bytes(store.serialize_cdr(message, type_name, little_endian=True))
        except SerdeError:
            return data

    def text(self, type_name: str) -> str:
        """The definition written anew: equal fields give equal text. Empty for an unknown type."""
        store = self._store(type_name)
        return store.generate_msgdef(type_name, ros_version=2)[0] if store else ""

    def _store(self, type_name: str) -> Typestore | None:
        """What knows the type; None where nothing does."""
        if type_name not in self._stores:
            self._stores[type_name] = self._parsed(type_name)
        return self._stores[type_name]

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
