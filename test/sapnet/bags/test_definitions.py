"""What the types that a recording defines say about its bytes."""

from __future__ import annotations

import pytest

from bag_builders import START_NS, wheel
from sapnet.bags.definitions import Definitions
from sapnet.bags.recording import Message, Schema, Topic

WHEEL = "our_msgs/msg/Wheel"
STAMPED = "our_msgs/msg/Stamped"
RULE = "=" * 80 + "\n"
IDL = f"""{RULE}IDL: {STAMPED}
// of a generator
#include "std_msgs/msg/Header.idl"

module our_msgs {{
  module msg {{
    struct Stamped {{
      std_msgs::msg::Header header;
      boolean locked;
      double speed;
    }};
  }};
}};
{RULE}IDL: std_msgs/msg/Header
#include "builtin_interfaces/msg/Time.idl"

module std_msgs {{
  module msg {{
    struct Header {{
      builtin_interfaces::msg::Time stamp;
      string frame_id;
    }};
  }};
}};
{RULE}IDL: builtin_interfaces/msg/Time
module builtin_interfaces {{
  module msg {{
    struct Time {{
      long sec;
      unsigned long nanosec;
    }};
  }};
}};
"""
MSG = "std_msgs/Header header\nbool locked\nfloat64 speed\n" + RULE + "MSG: std_msgs/Header\n"
MSG += (
    "builtin_interfaces/Time stamp\nstring frame_id\n"
    + RULE
    + "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
)


@pytest.mark.parametrize(("text", "encoding"), [(MSG, "ros2msg"), (IDL, "ros2idl")], ids=["msg", "idl"])
def test_types_are_read_as_the_recording_defines_them(text: str, encoding: str) -> None:
    topic = Topic("/topic", STAMPED, schema=Schema(encoding, text.encode()))
    definitions = Definitions([topic])
    # Encapsulation, stamp, an empty frame_id and its end, a truth value, two bytes of padding, a number.
    data = bytes([0, 1, 0, 0, *(8 * [1]), 1, 0, 0, 0, 0, 1, 0, 0, *(8 * [5])])
    assert definitions.stamp(Message(topic, 0, data)) == 0x01010101 * (10**9 + 1)
    assert definitions.stamp(Message(topic, 0, data[:9])) is None
    for place, padding in enumerate(data):
        other = bytes([*data[:place], padding ^ 1, *data[place + 1 :]])
        equal = definitions.digest(Message(topic, 0, other)) == definitions.digest(Message(topic, 0, data))
        assert equal == (place in (2, 3, 18, 19)), place


@pytest.mark.parametrize("text", ["", "}}} what", "other_msgs/Missing thing\n", "float64 float64\n"])
def test_messages_of_a_type_that_nothing_tells_are_compared_byte_by_byte(text: str) -> None:
    topic = Topic("/topic", WHEEL, schema=Schema("ros2msg", text.encode()))
    definitions = Definitions([topic])
    data = wheel("/wheel", START_NS, 1.5).data
    whole, padded = Message(topic, 0, data), Message(topic, 0, data[:5] + b"\1" + data[6:])
    assert definitions.stamp(whole) is None
    assert definitions.digest(whole) == definitions.digest(whole) != definitions.digest(padded)
