"""Compares two recordings topic by topic: images by their pixels, all other messages by their fields."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mcap.records import Attachment
from numpy.typing import NDArray

from sapnet.bags.definitions import Definitions
from sapnet.bags.matching import Entry, Side, pair_up
from sapnet.bags.mcap import ROSBAG2_RECORD
from sapnet.bags.open import open_recording
from sapnet.bags.recording import CDR, QOS_KEY, Message, Recording, Topic
from sapnet.bags.types import COMPRESSED_IMAGE, IMAGE, decode, deserialize
from sapnet.errors import BagError, ImageFormatError
from sapnet.images.messages import image_size

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
    largest_difference: of all samples of the images, 0 to 255. differing_pixels: their share, 0 to 1.
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
    with open_recording(a) as recording_a, open_recording(b) as recording_b:
        sides = Side(recording_a, Definitions(recording_a.topics)), Side(recording_b, Definitions(recording_b.topics))
        names = {topic.name for side in sides for topic in side.recording.topics}
        for pattern in topics:
            if not _matching(names, [pattern]):
                there = ", ".join(sorted(names)) or "none"
                raise BagError(f"neither recording has a topic {pattern!r}; there are {there}")
        names = (_matching(names, topics) if topics else names) - _matching(names, ignore)
        chosen = _chosen(recording_a, names), _chosen(recording_b, names)
        tallies = {name: _Tally(name, sides, chosen, tolerance, times) for name in sorted(names)}
        done, total = 0, sum(topic.count for some in chosen for topic in some)
        for pair in pair_up(sides, chosen):
            entry = pair[0] or pair[1]
            assert entry is not None
            tallies[entry.message.topic.name].add(*pair)
            done += sum(found is not None for found in pair)
            progress(done, total)
        compared = [tally.finish() for tally in tallies.values()]
        records = {} if topics else _compare_records(recording_a, recording_b)
        notes = list(recording_a.notes), list(recording_b.notes)
    return Comparison(str(a), str(b), tolerance, compared, records, *notes)


def _matching(names: set[str], patterns: Sequence[str]) -> set[str]:
    return {name for name in names if name in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)}


def _chosen(recording: Recording, names: set[str]) -> list[Topic]:
    return [topic for topic in recording.topics if topic.name in names]


def _compare_records(a: Recording, b: Recording) -> dict[str, str]:
    counts_a, counts_b = _records(a), _records(b)
    only_a = {name for name, _ in counts_a - counts_b}
    only_b = {name for name, _ in counts_b - counts_a}
    return {
        name: "differs" if name in only_a & only_b else "only in A" if name in only_a else "only in B"
        for name in sorted(only_a | only_b)
    }


def _records(recording: Recording) -> Counter[tuple[str, bytes]]:
    """Attachments and metadata records, by name and a digest of their content. rosbag2 writes one of its own."""
    found: Counter[tuple[str, bytes]] = Counter()
    for record in recording.records():
        if isinstance(record, Attachment):
            content = record.media_type.encode() + b"\0" + record.data
            found[f"attachment {record.name}", blake2b(content).digest()] += 1
        elif record.name != ROSBAG2_RECORD:
            found[f"metadata record {record.name}", repr(sorted(record.metadata.items())).encode()] += 1
    return found


class _Tally:
    """Compares the messages of one topic name, and counts."""

    def __init__(
        self,
        name: str,
        sides: tuple[Side, Side],
        topics: tuple[list[Topic], list[Topic]],
        tolerance: int,
        times: bool,
    ) -> None:
        self._sides = sides
        self._tolerance = tolerance
        self._compares_times = times
        mine = [[topic for topic in some if topic.name == name] for some in topics]
        types = [", ".join(sorted({topic.type for topic in some})) for some in mine]
        self._result = TopicComparison(name, types[0], types[1])
        if types[0] == types[1] and all(topic.metadata is not None for some in mine for topic in some):
            a, b = (_channels(side, some) for side, some in zip(sides, mine, strict=True))
            self._result.channel = [facet for facet in a if a[facet] != b[facet]]
        self._reasons: Counter[str] = Counter()
        self._pixels = 0
        self._differing = 0
        # Places of the last pair in A and B.
        self._last = (-1, -1)

    def add(self, a: Entry | None, b: Entry | None) -> None:
        """Add two messages that were paired, or one without a counterpart."""
        result = self._result
        result.count_a += a is not None
        result.count_b += b is not None
        if a is None or b is None:
            result.only_a += b is None
            result.only_b += a is None
            self._note_first(a, b)
            return
        reason, pixels = _compare(a, b, self._sides, self._tolerance)
        if pixels is not None:
            self._add_pixels(pixels)
        if not reason and (a.place > self._last[0]) != (b.place > self._last[1]):
            reason = "order"
        elif not reason and self._compares_times and a.message.time_ns != b.message.time_ns:
            reason = "log time"
        self._last = a.place, b.place
        if reason:
            result.different += 1
            self._reasons[reason] += 1
            self._note_first(a, b)
        else:
            result.equal += 1

    def finish(self) -> TopicComparison:
        """Return the result."""
        self._result.reasons = dict(self._reasons.most_common())
        if self._pixels:
            self._result.differing_pixels = self._differing / self._pixels
        return self._result

    def _add_pixels(self, pixels: _Pixels) -> None:
        result = self._result
        self._pixels += pixels.total
        self._differing += pixels.differing
        result.largest_difference = max(result.largest_difference or 0, pixels.largest)
        if math.isfinite(pixels.psnr):
            result.lowest_psnr = min(result.lowest_psnr or math.inf, pixels.psnr)

    def _note_first(self, a: Entry | None, b: Entry | None) -> None:
        entry, side = (a, self._sides[0]) if a is not None else (b, self._sides[1])
        if self._result.first_s is None and entry is not None:
            self._result.first_s = (entry.message.time_ns - side.recording.start_ns) / 1e9


def _channels(side: Side, topics: list[Topic]) -> dict[str, set[str]]:
    """Schemas, encodings and metadata of some channels. Definitions of ROS types are compared by their fields."""
    facets: dict[str, set[str]] = {"schema": set(), "encoding": set(), "metadata": set()}
    for topic in topics:
        metadata = (topic.metadata or {}).items()
        kept = {key: value for key, value in metadata if topic.encoding != CDR or key not in _BOOKKEEPING}
        facets["schema"].add(side.definitions.text(topic) or f"{topic.schema.encoding} {topic.schema.data.hex()}")
        facets["encoding"].add(topic.encoding)
        facets["metadata"].add(repr(sorted(kept.items())))
    return facets


class _Pixels(NamedTuple):
    """Differences of two frames. largest: of all samples, 0 to 255. differing, total: pixels. psnr: in dB."""

    largest: int
    differing: int
    total: int
    psnr: float


def _compare(a: Entry, b: Entry, sides: tuple[Side, Side], tolerance: int) -> tuple[str, _Pixels | None]:
    """What differs between two messages, empty if nothing does, and the differences of their pixels if they are images.

    tolerance: largest difference of a sample, 0 to 255, between equal images.
    """
    if all(e.message.topic.type in (IMAGE, COMPRESSED_IMAGE) and e.stamp is not None for e in (a, b)):
        with suppress(ImageFormatError):  # broken, or of an encoding that is not for looking at, such as depth
            return _compare_images(a.message, b.message, tolerance)
    if a.message.topic.type != b.message.topic.type:
        return "types", None
    if not (a.digest or b.digest) and a.message.data == b.message.data:
        return "", None
    digests = [e.digest or side.definitions.digest(e.message) for e, side in zip((a, b), sides, strict=True)]
    return ("" if digests[0] == digests[1] else "content"), None


def _compare_images(a: Message, b: Message, tolerance: int) -> tuple[str, _Pixels | None]:
    if a.data == b.data and a.topic.type == b.topic.type:
        height, width = image_size(deserialize(a.data, a.topic.type), a.topic.type == COMPRESSED_IMAGE)
        return "", _Pixels(0, 0, height * width, math.inf)
    frames = decode(a), decode(b)
    decoded, messages = [frame.decoded for frame in frames], [frame.message for frame in frames]
    if decoded[0].bgr.shape != decoded[1].bgr.shape:
        return "size", None
    pixels = _compare_frames(decoded[0].bgr, decoded[1].bgr)
    if decoded[0].alpha is not None and decoded[1].alpha is not None:
        alpha = _compare_frames(decoded[0].alpha, decoded[1].alpha)
        pixels = pixels._replace(largest=max(pixels.largest, alpha.largest))
    if messages[0].header.frame_id != messages[1].header.frame_id:
        return "frame_id", pixels
    if pixels.largest > tolerance:
        return "pixels", pixels
    is_rounded = decoded[0].encoding == decoded[1].encoding and decoded[0].encoding not in _EXACT
    if not tolerance and is_rounded and not _equal_samples(*messages):
        return "samples", pixels
    return "", pixels


def _compare_frames(a: NDArray[Any], b: NDArray[Any]) -> _Pixels:
    """Two uint8 (H, W, 3) or (H, W) of one shape."""
    difference = cv2.absdiff(a, b)
    height, width = difference.shape[:2]
    largest = int(difference.max())
    if not largest:
        return _Pixels(0, 0, height * width, math.inf)
    worst: NDArray[Any] = difference
    if difference.ndim == 3:
        blue, green, red = cv2.split(difference)
        worst = cv2.max(cv2.max(blue, green), red)
    mean_square = cv2.norm(difference, cv2.NORM_L2SQR) / difference.size
    return _Pixels(largest, cv2.countNonZero(worst), height * width, 10 * math.log10(255**2 / mean_square))


def _equal_samples(a: Any, b: Any) -> bool:
    """Whether raw images of one encoding are stored with the same samples; True for compressed ones."""
    if not (hasattr(a, "step") and hasattr(b, "step")) or (a.step, a.is_bigendian) != (b.step, b.is_bigendian):
        return True
    return bool(np.array_equal(a.data, b.data))
