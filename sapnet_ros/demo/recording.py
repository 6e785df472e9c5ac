"""The demo's input: pictures, a video or a recording, in synthetic rain, as the recording of a camera to replay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from sapnet.bags.cameras import find_cameras
from sapnet.bags.open import is_recording, open_recording
from sapnet.bags.types import CAMERA_INFO, IMAGE, decode, described_topic
from sapnet.errors import BagError
from sapnet.images.frame import Frame
from sapnet.media.sequence import RainySequence, read_frames
from sapnet_ros.camera import image_message
from sapnet_ros.replay.recorder import new_bag

NAMESPACE = "/sapnet_demo"
TOPIC = f"{NAMESPACE}/image"
_BEFORE_NS = 1000  # camera_info is logged this long before its frame

Sizes = dict[int, tuple[int, int]]
"""Height and width of each frame, by its stamp in nanoseconds."""


def read_input(path: Path) -> Iterator[tuple[str, Frame]]:
    """Names and frames of an image, a folder of images, a video, or the first color camera of a recording.

    Raises SapnetError.
    """
    if not is_recording(path):
        yield from read_frames(path)
        return
    with open_recording(path) as bag:
        camera = find_cameras(bag, advice="")[0]
        for index, recorded in enumerate(bag.messages([camera.topic])):
            yield f"{index:06d}", decode(recorded).decoded.bgr
        if bag.missing:
            raise BagError(f"{path} can be read only in part: {'; '.join(bag.missing)}")


def write_recording(sequence: RainySequence, rate: float, path: Path) -> Sizes:
    """Record the rainy frames at ``rate`` Hz, with camera_info. Raises SapnetError."""
    start_ns, sizes = time.time_ns(), Sizes()
    with new_bag(path, "mcap") as bag:
        infos = bag.add(described_topic(f"{NAMESPACE}/camera_info", CAMERA_INFO, ()))
        images = bag.add(described_topic(TOPIC, IMAGE, ()))
        for index, frame in enumerate(sequence):
            stamp_ns = start_ns + round(index * 1e9 / rate)
            header = Header(frame_id="camera")
            header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
            height, width = sizes[stamp_ns] = frame.rainy.shape[:2]
            bag.write(infos, stamp_ns - _BEFORE_NS, serialize_message(camera_info(height, width, header)))
            bag.write(images, stamp_ns, serialize_message(image_message(header, frame.rainy, "bgr8")))
    return sizes


def camera_info(height: int, width: int, header: Header) -> CameraInfo:
    """A pinhole camera without distortion, with a horizontal field of view of 53 degrees."""
    focal, x, y = float(width), width / 2, height / 2
    return CameraInfo(
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0],
    )
