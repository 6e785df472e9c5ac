"""What the message types of a recording say about its bytes: where a stamp stands, and which bytes are padding."""

from __future__ import annotations

from collections.abc import Iterable

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sapnet.bags.recording import Topic
from sapnet.bags.types import TYPESTORE

_HEADER = "std_msgs/msg/Header"
# What rosbag2 writes above each part of a definition in IDL.
_RULE = "=" * 80 + "\n"


class Definitions:
    """Message types as the topics of a recording define them, else as ROS 2 does; each is parsed when it is needed."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self._defined = {
            topic.type: topic.definition
            for topic in topics
            if topic.definition.format != MessageDefinitionFormat.NONE and topic.definition.data
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
        # What the library raises depends on the byte that is wrong.
        except Exception:
            return data

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
        # A definition may be anything that somebody wrote into the file.
        except Exception:
            return standard
        return store


def _types(type_name: str, definition: MessageDefinition) -> Typesdict:
    if definition.format == MessageDefinitionFormat.MSG:
        return get_types_from_msg(definition.data, type_name)
    types: Typesdict = {}
    for part in filter(None, definition.data.split(_RULE)):
        # The library's parser knows no directives; what they include stands in the other parts.
        lines = [line for line in part.splitlines() if not line.startswith(("IDL: ", "#"))]
        types.update(get_types_from_idl("\n".join(lines)))
    return types
