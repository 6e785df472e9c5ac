"""Finds the cameras of a recording, and names their output topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from sapnet.bags.recording import CDR, Recording, Topic
from sapnet.bags.types import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, decode, deserialize
from sapnet.errors import BagError, ImageFormatError
from sapnet.images.topics import COMPARISON, DERAINED, STREAK_MASK

# Frames of a topic that are tried until one can be decoded, to find out whether it is in color.
_LOOKED_AT = 20
_GRAY = ("mono", "8UC1", "8SC1", "16UC1", "16SC1", "32FC1", "32SC1", "64FC1")

_OUTPUTS = tuple(
    f"/{output.name}{transport}" for output in (DERAINED, STREAK_MASK, COMPARISON) for transport in ("", "/compressed")
)


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera of a recording.

    topic: of its images. info: of its camera_info. namespace: prefix of its output topics.
    """

    topic: Topic
    info: Topic | None
    namespace: str

    @property
    def compressed(self) -> bool:
        """Whether its images are CompressedImages."""
        return self.topic.type == COMPRESSED_IMAGE

    def output(self, name: str, compressed: bool = False) -> str:
        """The topic of an output such as ``derained/image``."""
        return f"{self.namespace}{name}{'/compressed' if compressed else ''}"


def find_cameras(source: Recording, wanted: Sequence[str] = ()) -> list[Camera]:
    """The cameras with these topics, or every color camera, once each; its raw topic is preferred to a compressed one.

    Outputs of derain_node are not cameras. Raises BagError if a topic is missing or holds no images.
    """
    images = [topic for topic in source.topics if topic.type in (IMAGE, COMPRESSED_IMAGE) and topic.encoding == CDR]
    chosen = [_named(name, source, images) for name in dict.fromkeys(wanted)] if wanted else _in_colour(source, images)
    shared = Counter(_namespace(topic) for topic in chosen)
    infos = {topic.name: topic for topic in source.topics if topic.type == CAMERA_INFO}
    cameras = [
        Camera(
            topic,
            infos.get(f"{_namespace(topic)}camera_info"),
            _namespace(topic) if shared[_namespace(topic)] == 1 else f"{_base(topic)}/",
        )
        for topic in chosen
    ]
    beside: dict[str, Camera] = {}
    for camera in cameras:
        other = beside.setdefault(camera.namespace, camera)
        if other is not camera:
            names = f"{other.topic.name} and {camera.topic.name}"
            raise BagError(f"outputs of {names} would have the same names; derain one of them with --topic")
    return cameras


def contents(source: Recording) -> str:
    """A sentence for an error: the topics of a recording that has no suitable camera."""
    seen = ", ".join(sorted(f"{topic.name} ({topic.type})" for topic in source.topics)) or "nothing"
    return f"It holds {seen}{_advice(source)}"


def _advice(source: Recording) -> str:
    if any(topic.encoding == "ros1" for topic in source.topics):
        return ". Its messages are ROS 1 encoded: derain the ROS 1 .bag that it was converted from"
    return ""


def untouched_siblings(cameras: Sequence[Camera], images: Sequence[Topic]) -> list[Topic]:
    """Topics that carry the images of these cameras in another transport."""
    bases, taken = {_base(camera.topic) for camera in cameras}, {camera.topic for camera in cameras}
    images = [topic for topic in images if topic.type in (IMAGE, COMPRESSED_IMAGE)]
    return [topic for topic in images if topic not in taken and _base(topic) in bases]


def _in_colour(source: Recording, images: Sequence[Topic]) -> list[Topic]:
    """One topic of each camera: the first with color images, raw ones before compressed ones."""
    found: dict[str, Topic] = {}
    for topic in sorted(images, key=lambda topic: topic.type != IMAGE):
        if _base(topic) not in found and not _is_output(topic) and _is_colour(source, topic):
            found[_base(topic)] = topic
    return [topic for topic in images if topic in found.values()]


def _is_output(topic: Topic) -> bool:
    return f"/{topic.name}".endswith(_OUTPUTS)


def _named(name: str, source: Recording, images: Sequence[Topic]) -> Topic:
    for topic in images:
        if topic.name == name:
            return topic
    there = ", ".join(f"{topic.name} ({topic.type})" for topic in images) or "none"
    raise BagError(f"{source.path} has no image topic {name}; it has: {there}{_advice(source)}")


def _base(topic: Topic) -> str:
    """The topic without the suffix of its image_transport."""
    return topic.name.removesuffix("/compressed") if topic.type == COMPRESSED_IMAGE else topic.name


def _namespace(topic: Topic) -> str:
    """With a slash at its end, or empty."""
    base = _base(topic)
    return base[: base.rfind("/") + 1]


def _is_colour(source: Recording, topic: Topic) -> bool:
    for recorded in islice(source.messages([topic]), _LOOKED_AT):
        try:
            message = deserialize(recorded.data, topic.type)
            declared = str(message.encoding if topic.type == IMAGE else message.format)
            if declared.startswith(_GRAY) or "compressedDepth" in declared:
                return False
            return not decode(recorded).decoded.encoding.startswith(_GRAY)
        except ImageFormatError:
            continue
    return False
