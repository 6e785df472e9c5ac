"""What the types that a recording defines say about its bytes."""

from __future__ import annotations

import pytest

from bag_builders import START_NS, wheel
from sapnet.bags.definitions import Definitions
from sapnet.bags.recording import Schema, Topic

IMAGE, STRING, WHEEL = "sensor_msgs/msg/Image", "std_msgs/msg/String", "our_msgs/msg/Wheel"
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


def defined(type_name: str, text: str = "", encoding: str = "ros2msg") -> Definitions:
    """Definitions of a recording with one topic; without a text, nothing defines its type."""
    return Definitions([Topic("/topic", type_name, schema=Schema(encoding, text.encode()))])


@pytest.mark.parametrize(("text", "encoding"), [(MSG, "ros2msg"), (IDL, "ros2idl")], ids=["msg", "idl"])
def test_types_are_read_as_the_recording_defines_them(text: str, encoding: str) -> None:
    definitions = defined(STAMPED, text, encoding)
    assert definitions.is_stamped(STAMPED)
    # Encapsulation, stamp, an empty frame_id and its end, a truth value, two bytes of padding, a number.
    message = bytes([0, 1, 0, 0, *(8 * [1]), 1, 0, 0, 0, 0, 1, 0, 0, *(8 * [5])])
    for place, padding in enumerate(message):
        other = bytes([*message[:place], padding ^ 1, *message[place + 1 :]])
        equal = definitions.canonical(other, STAMPED) == definitions.canonical(message, STAMPED)
        assert equal == (place in (2, 3, 18, 19)), place


@pytest.mark.parametrize("text", ["", "}}} what", "other_msgs/Missing thing\n", "float64 float64\n"])
def test_messages_of_a_type_that_nothing_tells_are_left_as_they_are(text: str) -> None:
    definitions = defined(WHEEL, text)
    assert not definitions.is_stamped(WHEEL)
    data = wheel("/wheel", START_NS, 1.5).data[:-3]
    assert definitions.canonical(data, WHEEL) == data
