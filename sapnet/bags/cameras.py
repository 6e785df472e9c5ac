"""The cameras of a recording, what to make of them, and the topics and messages of their outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from sapnet.bags.recording import CDR, Message, Recording, Topic
from sapnet.bags.types import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    BagFrame,
    MessageError,
    decode,
    described_topic,
    deserialize,
    encode,
    serialize,
)
from sapnet.errors import BagError, ImageFormatError
from sapnet.images.codecs import JPEG_QUALITY
from sapnet.images.messages import output_encoding
from sapnet.images.topics import COMPARISON, DERAINED, DERAINED_INFO, STREAK_MASK

if TYPE_CHECKING:
    from sapnet.derainer import Derained

# Frames of a topic that are tried until one can be decoded, to find out whether it is in color.
_LOOKED_AT = 20
_GRAY = ("mono", "8UC1", "8SC1", "16UC1", "16SC1", "32FC1", "32SC1", "64FC1")

CODECS = ("jpeg", "png")

_OUTPUTS = tuple(f"/{output.name}" for output in (DERAINED, STREAK_MASK, COMPARISON))


@dataclass(frozen=True)
class BagOptions:
    """How to derain a recording.

    topics: image topics to derain; empty for every color camera. replace: write derained frames under the source's
    topic. only_derained: write derained topics only. compressed: ``jpeg`` or ``png``; empty to keep the source's
    format. quality: of JPEG, 1 to 100. stride: derain every Nth frame of a camera.
    start_s, duration_s: seconds from the recording's start; a duration of 0 reaches to the end. What latched topics
    published before the start is written at the start. storage: ``mcap`` or ``sqlite3``; empty for the source's, or
    mcap for ROS 1. batch: frames per batch.
    """

    topics: tuple[str, ...] = ()
    replace: bool = False
    only_derained: bool = False
    compressed: str = ""
    quality: int = JPEG_QUALITY
    stride: int = 1
    start_s: float = 0.0
    duration_s: float = 0.0
    storage: str = ""
    batch: int = 1


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


def find_cameras(
    source: Recording, wanted: Sequence[str] = (), advice: str = "; name an image topic with --topic"
) -> list[Camera]:
    """The cameras with these topics, or every color camera, once each; its raw topic is preferred to a compressed one.

    Outputs of derain_node are not cameras. Raises BagError if a topic is missing or holds no images, or if no topic has
    color images: then with ``advice``.
    """
    images = [topic for topic in source.topics if topic.type in (IMAGE, COMPRESSED_IMAGE) and topic.encoding == CDR]
    chosen = [_named(name, source, images) for name in dict.fromkeys(wanted)] if wanted else _in_colour(source, images)
    if not chosen:
        there = ", ".join(sorted(f"{topic.name} ({topic.type})" for topic in source.topics)) or "nothing"
        raise BagError(f"{source.path} has no color camera{advice}. It holds {there}")
    namespaces = {topic: _base(topic)[: _base(topic).rfind("/") + 1] for topic in chosen}
    shared = Counter(namespaces.values())
    infos = {topic.name: topic for topic in source.topics if topic.type == CAMERA_INFO}
    cameras = [
        Camera(topic, infos.get(f"{namespace}camera_info"), namespace if shared[namespace] == 1 else f"{_base(topic)}/")
        for topic, namespace in namespaces.items()
    ]
    used = Counter(camera.namespace for camera in cameras)
    if clashing := [camera.topic.name for camera in cameras if used[camera.namespace] > 1]:
        names = " and ".join(clashing)
        raise BagError(f"outputs of {names} would have the same names; derain one of them with --topic")
    return cameras


@dataclass
class Item:
    """A message of a recording, and what is made of it.

    number: of the message among all that are selected. camera: set for images of a camera.
    frame, derained: set if it is to be derained. info: CDR of the matching camera_info, if there is one.
    latency_ms: its share of the network's time. unreadable: why its frame could not be decoded.
    """

    number: int
    recorded: Message
    camera: Camera | None = None
    unreadable: str = ""
    frame: BagFrame | None = None
    info: bytes | None = None
    derained: Derained | None = None
    latency_ms: float = 0.0


class Outputs:
    """The output of one run. Raises BagError if there is no camera, or if an output is in the recording already.

    cameras: those that are derained. made: by their topics, those of the derained frames, of their camera_info if one
    was recorded, and of the streak masks. topics: all of them, those of the source first.
    notes: what may be unexpected in them, a sentence each.
    """

    def __init__(self, bag: Recording, options: BagOptions) -> None:
        self._options = options
        self.cameras = find_cameras(bag, options.topics)
        self.made = {camera.topic: self._made(camera) for camera in self.cameras}
        infos = {camera.info for camera in self.cameras}
        if options.only_derained:
            self._kept = [topic for topic in bag.topics if options.replace and topic in infos]
        else:
            self._kept = [topic for topic in bag.topics if not (options.replace and topic in self.made)]
        made = [topic for topics in self.made.values() for topic in topics if topic is not None]
        if clashes := sorted({topic.name for topic in made} & {topic.name for topic in self._kept}):
            raise BagError(
                f"{bag.path} has {', '.join(clashes)} already: it was derained before. Derain the original "
                "recording, or another camera of it with --topic"
            )
        bases = {_base(topic) for topic in self.made} if options.replace else set()
        self.notes = [
            f"{topic.name} shows a derained camera in another transport, with its rain: it is copied"
            for topic in self._kept
            if topic.type in (IMAGE, COMPRESSED_IMAGE) and _base(topic) in bases
        ]
        self.topics = (*self._kept, *made)

    def messages(self, item: Item) -> Iterator[Message]:
        """The messages to write for one of the source: itself if it is kept, then the derained ones."""
        recorded, frame, derained = item.recorded, item.frame, item.derained
        if recorded.topic in self._kept:
            yield recorded
        if item.camera is None:
            return
        image, info, mask = self.made[recorded.topic]
        if frame is not None and derained is not None:
            header, quality = frame.message.header, self._options.quality
            codec, encoding = self._options.compressed or frame.codec, output_encoding("same", frame.decoded.encoding)
            data = encode(header, derained.image, encoding, codec, quality, frame.decoded.alpha)
            yield recorded._replace(topic=image, data=data)
            if info is not None and item.info is not None:
                with suppress(MessageError):  # one that cannot be read is copied only
                    data = serialize(replace(deserialize(item.info, CAMERA_INFO), header=header))
                    yield recorded._replace(topic=info, data=data)
            # A mask is exact: it is compressed without loss.
            data = encode(header, derained.streak_mask, "mono8", "png" if codec else "", quality)
            yield recorded._replace(topic=mask, data=data)
        elif item.unreadable and self._options.replace and image.type == recorded.topic.type:
            yield recorded._replace(topic=image)

    def _made(self, camera: Camera) -> tuple[Topic, Topic | None, Topic]:
        compressed = camera.compressed or bool(self._options.compressed)
        kind = COMPRESSED_IMAGE if compressed else IMAGE
        derained = camera.output(DERAINED.name, compressed)
        if self._options.replace:
            derained = camera.topic.name + ("/compressed" if compressed and not camera.compressed else "")
        info = None
        if camera.info is not None and not self._options.replace:
            info = described_topic(camera.output(DERAINED_INFO.name), CAMERA_INFO, camera.info.qos)
        mask = described_topic(camera.output(STREAK_MASK.name, compressed), kind, camera.topic.qos)
        return described_topic(derained, kind, camera.topic.qos), info, mask


def _in_colour(source: Recording, images: Sequence[Topic]) -> list[Topic]:
    """One topic of each camera: the first with color images, raw ones before compressed ones."""
    found: dict[str, Topic] = {}
    for topic in sorted(images, key=lambda topic: topic.type != IMAGE):
        base = _base(topic)
        if base not in found and not f"/{base}".endswith(_OUTPUTS) and _is_colour(source, topic):
            found[base] = topic
    return [topic for topic in images if topic in found.values()]


def _named(name: str, source: Recording, images: Sequence[Topic]) -> Topic:
    if topic := next((topic for topic in images if topic.name == name), None):
        return topic
    there = ", ".join(f"{topic.name} ({topic.type})" for topic in images) or "none"
    raise BagError(f"{source.path} has no image topic {name}; it has: {there}")


def _base(topic: Topic) -> str:
    """The topic without the suffix of its image_transport."""
    return topic.name.removesuffix("/compressed") if topic.type == COMPRESSED_IMAGE else topic.name


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
