"""Compares two recordings topic by topic: images by their pixels, all other messages by their fields."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import reduce
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
from mcap.records import Attachment

from sapnet.bags.matching import Entry, pair_up
from sapnet.bags.open import open_recording
from sapnet.bags.recording import CDR, QOS_KEY, Message, Recording, Topic
from sapnet.bags.types import COMPRESSED_IMAGE, IMAGE, decode, definition_of, digest_of
from sapnet.errors import BagError, ImageFormatError

# Encodings whose samples are the decoded ones; decoding the others rounds or mixes them.
_EXACT = ("bgr8", "rgb8", "bgra8", "rgba8", "mono8", "8UC1", "8UC3", "8UC4")
# Channel metadata of rosbag2: QoS profiles are not compared, and the hash follows from the schema.
_BOOKKEEPING = (QOS_KEY, "topic_type_hash")

Progress = Callable[[int, int], None]


@dataclass
class TopicComparison:
    """A topic in two recordings, A and B.

    types: in A and in B, joined by a comma if a name has several; empty if the topic is missing.
    channel: what differs between the channels, if both are mcap: ``schema``, ``encoding``, ``metadata``.
    reasons: number of messages that differ, by what differs. first_s: log time of the first difference, in seconds
    from the start of A, or of B for a message that only B has; None if there is none.
    largest_difference: of all samples of the images, 0 to 255. differing_pixels: their mean share in an image, 0 to 1.
    lowest_psnr: in dB, of the image that differs most; None if all are equal. All are None without images.
    """

    topic: str
    type_a: str
    type_b: str
    count_a: int = 0
    count_b: int = 0
    equal: int = 0
    different: int = 0
    only_a: int = 0
    only_b: int = 0
    channel: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    first_s: float | None = None
    largest_difference: int | None = None
    differing_pixels: float | None = None
    lowest_psnr: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether both recordings have the topic, and nothing differs."""
        differs = self.channel or self.different or self.only_a or self.only_b
        return bool(self.type_a and self.type_b) and not differs


@dataclass
class Comparison:
    """Two recordings.

    records: attachments and metadata records of mcap that differ, such as ``attachment map.pgm``, and how:
    ``differs``, ``only in A`` or ``only in B``. notes_a, notes_b: problems found in each recording.
    """

    a: str
    b: str
    tolerance: int
    topics: list[TopicComparison]
    records: dict[str, str] = field(default_factory=dict)
    notes_a: list[str] = field(default_factory=list)
    notes_b: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether no topic and no record differs."""
        return not self.records and all(topic.is_equal for topic in self.topics)


def compare_bags(
    a: Path,
    b: Path,
    *,
    tolerance: int = 0,
    topics: Sequence[str] = (),
    ignore: Sequence[str] = (),
    times: bool = False,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Compare two recordings message by message, whatever their storage and compression.

    tolerance: largest difference of a sample, 0 to 255, between images that are taken as equal. topics, ignore: names
    or shell patterns of the topics to compare (all if empty), and of those to leave out. Attachments and metadata
    records are compared unless topics are chosen. times: log times must be equal, too. progress: called with the number
    of messages read, and the total. Raises BagError, also if a pattern of ``topics`` matches no topic.
    """
    with open_recording(a) as bag_a, open_recording(b) as bag_b:
        bags = bag_a, bag_b
        names = {topic.name for bag in bags for topic in bag.topics}
        for pattern in topics:
            if not _matching(names, [pattern]):
                there = ", ".join(sorted(names)) or "none"
                raise BagError(f"neither recording has a topic {pattern!r}; there are {there}")
        names = (_matching(names, topics) if topics else names) - _matching(names, ignore)
        chosen = [[topic for topic in bag.topics if topic.name in names] for bag in bags]
        tallies = {name: _Tally(name, bags, tolerance, times) for name in sorted(names)}
        done, total = 0, sum(topic.count for some in chosen for topic in some)
        for side, entry, partner in pair_up(bags, chosen):
            tallies[entry.message.topic.name].add(*((entry, partner) if side == 0 else (partner, entry)))
            done += 1 if partner is None else 2
            progress(done, total)
        results = [tally.result for tally in tallies.values()]
        records = {} if topics else _compare_records(bag_a, bag_b)
        return Comparison(str(a), str(b), tolerance, results, records, list(bag_a.notes), list(bag_b.notes))


def _matching(names: set[str], patterns: Sequence[str]) -> set[str]:
    return {name for name in names if name in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)}


def _compare_records(a: Recording, b: Recording) -> dict[str, str]:
    in_a, in_b = Counter(_records(a)), Counter(_records(b))
    names_a, names_b = ({name for name, _ in records} for records in (in_a, in_b))
    differing = sorted({name for name, _ in (in_a - in_b) | (in_b - in_a)})
    return {
        name: "only in A" if name not in names_b else "only in B" if name not in names_a else "differs"
        for name in differing
    }


def _records(recording: Recording) -> Iterator[tuple[str, bytes]]:
    """Names and digests of attachments and metadata records."""
    for record in recording.records():
        if isinstance(record, Attachment):
            name, content = f"attachment {record.name}", record.media_type.encode() + b"\0" + record.data
        else:
            name, content = f"metadata record {record.name}", repr(sorted(record.metadata.items())).encode()
        yield name, blake2b(content).digest()


class _Tally:
    """Compares the messages of one topic name, and counts."""

    def __init__(self, name: str, bags: Sequence[Recording], tolerance: int, times: bool) -> None:
        self._starts_ns = [bag.start_ns for bag in bags]
        self._tolerance = tolerance
        self._compares_times = times
        a, b = ([topic for topic in bag.topics if topic.name == name] for bag in bags)
        type_a, type_b = (", ".join(sorted({topic.type for topic in some})) for some in (a, b))
        self.result = TopicComparison(name, type_a, type_b)
        if type_a == type_b and all(topic.metadata is not None for topic in (*a, *b)):
            channels_a, channels_b = _channels(a), _channels(b)
            self.result.channel = [facet for facet in channels_a if channels_a[facet] != channels_b[facet]]
        self._images = 0
        # Places of the last pair in A and B.
        self._last = (-1, -1)

    def add(self, a: Entry | None, b: Entry | None) -> None:
        """Add two messages that were paired, or one without a counterpart."""
        result = self.result
        result.count_a += a is not None
        result.count_b += b is not None
        if a is not None and b is not None:
            reason = self._compare(a, b)
            if not reason and (a.place > self._last[0]) != (b.place > self._last[1]):
                reason = "order"
            elif not reason and self._compares_times and a.message.time_ns != b.message.time_ns:
                reason = "log time"
            self._last = a.place, b.place
            if not reason:
                result.equal += 1
                return
            result.different += 1
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
        result.only_a += b is None
        result.only_b += a is None
        entry = a or b
        if result.first_s is None and entry is not None:
            result.first_s = (entry.message.time_ns - self._starts_ns[0 if a else 1]) / 1e9

    def _compare(self, a: Entry, b: Entry) -> str:
        """What differs between two messages; empty if nothing does."""
        types, has_data = (a.message.topic.type, b.message.topic.type), not (a.digest or b.digest)
        if has_data and {*types} <= {IMAGE, COMPRESSED_IMAGE}:
            with suppress(ImageFormatError):  # broken, or of an encoding that is not for looking at, such as depth
                return self._compare_images(a.message, b.message)
        if types[0] != types[1]:
            return "types"
        if has_data and a.message.data == b.message.data:
            return ""
        digests = [entry.digest or digest_of(entry.message) for entry in (a, b)]
        return "" if digests[0] == digests[1] else "content"

    def _compare_images(self, a: Message, b: Message) -> str:
        if a.data == b.data and a.topic.type == b.topic.type:
            self._note_pixels(0, 0.0)
            return ""
        frame_a, frame_b = decode(a), decode(b)
        pixels_a, pixels_b = frame_a.decoded, frame_b.decoded
        if pixels_a.bgr.shape != pixels_b.bgr.shape:
            return "size"
        difference = cv2.absdiff(pixels_a.bgr, pixels_b.bgr)
        if pixels_a.alpha is not None and pixels_b.alpha is not None:
            difference = np.dstack((difference, cv2.absdiff(pixels_a.alpha, pixels_b.alpha)))
        worst = reduce(cv2.max, cv2.split(difference))
        largest = int(worst.max())
        self._note_pixels(largest, cv2.countNonZero(worst) / worst.size)
        if largest:
            psnr = cv2.PSNR(difference, np.zeros_like(difference))
            self.result.lowest_psnr = min(self.result.lowest_psnr or math.inf, psnr)
        if frame_a.message.header.frame_id != frame_b.message.header.frame_id:
            return "frame_id"
        if largest > self._tolerance:
            return "pixels"
        is_rounded = pixels_a.encoding == pixels_b.encoding and pixels_a.encoding not in _EXACT
        if is_rounded and not self._tolerance and digest_of(a) != digest_of(b):
            return "samples"
        return ""

    def _note_pixels(self, largest: int, share: float) -> None:
        """Note the largest difference of two images, and the share of pixels that differ."""
        result = self.result
        self._images += 1
        mean = result.differing_pixels or 0.0
        result.largest_difference = max(result.largest_difference or 0, largest)
        result.differing_pixels = mean + (share - mean) / self._images


def _channels(topics: list[Topic]) -> dict[str, set[str]]:
    """Schemas, encodings and metadata of some channels. Definitions of ROS types are compared by their fields."""
    facets: dict[str, set[str]] = {"schema": set(), "encoding": set(), "metadata": set()}
    for topic in topics:
        metadata = (topic.metadata or {}).items()
        kept = {key: value for key, value in metadata if topic.encoding != CDR or key not in _BOOKKEEPING}
        facets["schema"].add(definition_of(topic))
        facets["encoding"].add(topic.encoding)
        facets["metadata"].add(repr(sorted(kept.items())))
    return facets
