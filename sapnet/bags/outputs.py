"""The topics of a derained recording, and the messages that are written for each message of the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sapnet.bags.cameras import Camera, untouched_siblings
from sapnet.bags.options import BagOptions
from sapnet.bags.pipeline import Item
from sapnet.bags.recording import Message, Recording, Topic
from sapnet.bags.types import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, described_topic, encode, encode_info
from sapnet.errors import BagError
from sapnet.images.messages import output_encoding


class Outputs:
    """The output of one run.

    topics: those of the source first. notes: what may be unexpected in them, a sentence each.
    """

    def __init__(self, bag: Recording, cameras: Sequence[Camera], options: BagOptions) -> None:
        self._options = options
        self._described = any(topic.schema.data for topic in bag.topics)
        self._infos = {camera.info for camera in cameras if camera.info is not None}
        sources = {camera.topic for camera in cameras}
        self._kept = {topic for topic in bag.topics if self._stays(topic, topic in sources)}
        made = {camera: self._made(camera) for camera in cameras}
        taken = {topic.name for topic in self._kept}
        clashes = sorted({t.name for topics in made.values() for t in topics if t is not None and t.name in taken})
        if clashes:
            raise BagError(
                f"{bag.path} has {', '.join(clashes)} already: it was derained before. Derain the original "
                "recording, or another camera of it with --topic"
            )
        self._outputs = {camera.topic: topics for camera, topics in made.items()}
        new = [topic for topics in made.values() for topic in topics if topic is not None]
        rainy = [t.name for t in untouched_siblings(cameras, bag.topics) if options.replace and t in self._kept]
        self.notes = [
            f"{name} shows a derained camera in another transport, with its rain: it is copied" for name in rainy
        ]
        self.topics = (*(topic for topic in bag.topics if topic in self._kept), *new)

    def names(self, camera: Camera) -> tuple[str, str, str]:
        """Topics of a camera: source, derained, streak mask."""
        derained, _, mask = self._outputs[camera.topic]
        return camera.topic.name, derained.name, mask.name

    def messages(self, item: Item) -> Iterator[Message]:
        """The messages to write for one of the source: itself if it is kept, then the derained ones."""
        recorded, frame, derained = item.recorded, item.frame, item.derained
        if recorded.topic in self._kept:
            yield recorded
        if item.camera is None:
            return
        image, info, mask = self._outputs[recorded.topic]
        if frame is not None and derained is not None:
            header, quality = frame.message.header, self._options.quality
            codec, encoding = self._options.compressed or frame.codec, output_encoding("same", frame.decoded.encoding)
            data = encode(header, derained.image, encoding, codec, quality, frame.decoded.alpha)
            yield recorded._replace(topic=image, data=data)
            described = None if item.info is None else encode_info(header, item.info)
            if info is not None and described is not None:
                yield recorded._replace(topic=info, data=described)
            # A mask is exact: it is compressed without loss.
            data = encode(header, derained.streak_mask, "mono8", "png" if codec else "", quality)
            yield recorded._replace(topic=mask, data=data)
        elif item.unreadable and self._options.replace and image.type == recorded.topic.type:
            yield recorded._replace(topic=image)

    def _stays(self, topic: Topic, is_source: bool) -> bool:
        if is_source:
            return not self._options.replace and not self._options.only_derained
        if self._options.only_derained:
            return self._options.replace and topic in self._infos
        return True

    def _made(self, camera: Camera) -> tuple[Topic, Topic | None, Topic]:
        """Topics of the derained frames, of their camera_info if one was recorded, and of the streak masks."""
        compressed = camera.compressed or bool(self._options.compressed)
        kind = COMPRESSED_IMAGE if compressed else IMAGE
        derained = camera.output("derained/image", compressed)
        if self._options.replace:
            derained = camera.topic.name + ("/compressed" if compressed and not camera.compressed else "")
        info = None
        if camera.info is not None and not self._options.replace:
            info = self._topic(camera.output("derained/camera_info"), CAMERA_INFO, camera.info)
        mask = self._topic(camera.output("streak_mask/image", compressed), kind, camera.topic)
        return self._topic(derained, kind, camera.topic), info, mask

    def _topic(self, name: str, type_name: str, like: Topic) -> Topic:
        """A topic with the source's QoS profiles, and with a definition if the recording has definitions."""
        return described_topic(name, type_name, like.qos) if self._described else Topic(name, type_name, like.qos)
