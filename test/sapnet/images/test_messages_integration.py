"""The messages of rclpy and of rosbags, and what DDS and recordings do to them: CDR and back."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest

from sapnet.images.messages import (
    decode_compressed,
    decode_image,
    encode_compressed,
    encode_image,
    image_size,
)

FRAME = cv2.GaussianBlur(np.random.default_rng(5).integers(0, 256, (18, 24, 3), dtype=np.uint8), (0, 0), 2)
WRITTEN = ("bgr8", "rgb8", "bgra8", "rgba8", "mono8")


class Rclpy:
    """Messages as a node has them: sent and received."""

    def __init__(self):
        reason = "ROS 2 is not installed: rclpy and sensor_msgs are missing"
        serialization = pytest.importorskip("rclpy.serialization", reason=reason)
        self.types = pytest.importorskip("sensor_msgs.msg", reason=reason)
        self.write, self.read = serialization.serialize_message, serialization.deserialize_message

    def sent(self, name, fields):
        kind = getattr(self.types, name)
        data = array.array("B")
        data.frombytes(memoryview(fields["data"]))
        return self.write(kind(**{**fields, "data": data}))

    def received(self, name, content):
        return self.read(content, getattr(self.types, name))


class Rosbags:
    """Messages as a recording has them."""

    def __init__(self):
        rosbags = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed")
        self.store = rosbags.get_typestore(rosbags.Stores.ROS2_JAZZY)

    def sent(self, name, fields):
        kinds = self.store.types
        header = kinds["std_msgs/msg/Header"](stamp=kinds["builtin_interfaces/msg/Time"](sec=1, nanosec=2), frame_id="")
        name = f"sensor_msgs/msg/{name}"
        return bytes(self.store.serialize_cdr(kinds[name](header=header, **fields), name))

    def received(self, name, content):
        return self.store.deserialize_cdr(content, f"sensor_msgs/msg/{name}")


@pytest.fixture(params=[Rclpy, Rosbags])
def sender(request):
    return request.param()


@pytest.fixture(params=[Rclpy, Rosbags])
def receiver(request):
    return request.param()


@pytest.mark.parametrize("encoding", WRITTEN)
def test_a_frame_comes_back_from_a_message(sender, receiver, encoding):
    alpha = FRAME[..., 1] if encoding in ("bgra8", "rgba8") else None
    content = sender.sent("Image", vars(encode_image(FRAME, encoding, alpha)))
    msg = receiver.received("Image", content)
    decoded = decode_image(msg)
    gray = cv2.cvtColor(FRAME, cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(decoded.bgr, np.dstack([gray] * 3) if encoding == "mono8" else FRAME)
    assert image_size(msg, compressed=False) == (18, 24)
    if alpha is not None:
        np.testing.assert_array_equal(decoded.alpha, alpha)
    again = encode_image(decoded.bgr, encoding, decoded.alpha)
    assert bytes(again.data) == bytes(msg.data)


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_compressed_frames(sender, receiver, codec):
    fields = encode_compressed(FRAME, codec=codec)
    msg = receiver.received("CompressedImage", sender.sent("CompressedImage", vars(fields)))
    assert msg.format == f"bgr8; {codec} compressed bgr8"
    assert image_size(msg, compressed=True) == (18, 24)
    decoded = decode_compressed(msg)
    assert decoded.encoding == "bgr8"
    assert cv2.PSNR(decoded.bgr, FRAME) > 35


def test_a_received_bgr8_message_is_read_in_place(receiver):
    msg = receiver.received("Image", receiver.sent("Image", vars(encode_image(FRAME, "bgr8"))))
    assert np.shares_memory(decode_image(msg).bgr, np.frombuffer(msg.data, np.uint8))
