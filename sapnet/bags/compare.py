"""Says what two recordings have in common and what not, topic by topic, whatever their sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from sapnet.bags.definitions import Definitions
from sapnet.bags.likeness import Likeness, compare_pair
from sapnet.bags.matching import Message, Pair, Side, Single, pair_up
from sapnet.bags.open import open_recording
from sapnet.bags.recording import Recording, Topic
from sapnet.errors import BagError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CompareOptions:
    """What counts as a difference.

    tolerance: the largest difference of a sample, 0 to 255, between images that are taken as equal.
    topics, ignore: names or shell patterns of what to compare (all where empty), and of what not to.
    times: whether log times must be equal, too.
    """

    tolerance: int = 0
    topics: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    times: bool = False


@dataclass
class TopicComparison:
    """A topic in two recordings, A and B.

    types: in A and in B, joined by a comma where a name has several; empty where it is missing.
    reasons: how many messages differ in what. first_s: where the first difference is, in seconds of log time from
    the start of A, or from that of B for what only B has; None where there is none.
    largest_difference: of all samples of the images, 0 to 255. differing_pixels: share of them, 0 to 1.
    lowest_psnr: in dB, of the image that differs most; None where all are equal. All are None without images.
    largest_time_difference_s: of log times, where they were compared.
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
    reasons: dict[str, int] = field(default_factory=dict)
    first_s: float | None = None
    largest_difference: int | None = None
    differing_pixels: float | None = None
    lowest_psnr: float | None = None
    largest_time_difference_s: float | None = None

    @property
    def is_equal(self) -> bool:
        return bool(self.type_a and self.type_b) and not (self.different or self.only_a or self.only_b)


@dataclass
class Comparison:
    """Two recordings. notes_a, notes_b: what was wrong with each, a sentence for each thing."""

    a: str
    b: str
    tolerance: int
    topics: list[TopicComparison]
    notes_a: list[str] = field(default_factory=list)
    notes_b: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return all(topic.is_equal for topic in self.topics)


def compare_bags(
    a: Path, b: Path, options: CompareOptions = CompareOptions(), progress: Progress = lambda done, total: None
) -> Comparison:
    """Compare two recordings, of whatever storage and compression, message by message.

    progress: called with the messages read, and how many there are. Raises BagError, also for a wish that no topic
    answers to.
    """
    with open_recording(a) as source_a, open_recording(b) as source_b:
        _require_wanted({topic.name for source in (source_a, source_b) for topic in source.topics}, options.topics)
        topics = _choose(source_a, options), _choose(source_b, options)
        sides = Side(source_a, Definitions(source_a.topics)), Side(source_b, Definitions(source_b.topics))
        tallies = {name: _Tally(name, *topics) for name in sorted({topic.name for some in topics for topic in some})}
        done, total = 0, sum(topic.count for some in topics for topic in some)
        for found in pair_up(sides, topics):
            name = (found.message if isinstance(found, Single) else found.a).topic.name
            tallies[name].add(found, sides, options)
            done += 1 if isinstance(found, Single) else 2
            progress(done, total)
        compared = [tally.finish() for tally in tallies.values()]
        notes = list(source_a.notes), list(source_b.notes)
    return Comparison(str(a), str(b), options.tolerance, compared, *notes)


def _choose(source: Recording, options: CompareOptions) -> list[Topic]:
    return [
        topic
        for topic in source.topics
        if (not options.topics or _matches(topic.name, options.topics)) and not _matches(topic.name, options.ignore)
    ]


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _require_wanted(names: set[str], wanted: Sequence[str]) -> None:
    known = sorted(names)
    listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "") or "none"
    for pattern in wanted:
        if not any(_matches(name, (pattern,)) for name in names):
            raise BagError(f"neither recording has a topic {pattern!r}; there are {listed}")


class _Tally:
    """Counts what becomes of one topic's messages."""

    def __init__(self, name: str, topics_a: Sequence[Topic], topics_b: Sequence[Topic]) -> None:
        self._result = TopicComparison(name, _types(name, topics_a), _types(name, topics_b))
        self._reasons: Counter[str] = Counter()
        self._pixels = 0
        self._differing = 0
        # Of the pair with a header that was seen last: where its messages stand in A and B.
        self._last: tuple[int, int] = (-1, -1)

    def add(self, found: Pair | Single, sides: tuple[Side, Side], options: CompareOptions) -> None:
        if isinstance(found, Single):
            self._add_single(found, sides)
        else:
            self._add_pair(found, sides, options)

    def finish(self) -> TopicComparison:
        self._result.reasons = dict(self._reasons.most_common())
        if self._pixels:
            self._result.differing_pixels = self._differing / self._pixels
        return self._result

    def _add_single(self, found: Single, sides: tuple[Side, Side]) -> None:
        result = self._result
        if found.side == 0:
            result.count_a += 1
            result.only_a += 1
        else:
            result.count_b += 1
            result.only_b += 1
        self._note_first(found.message, sides[found.side])

    def _add_pair(self, pair: Pair, sides: tuple[Side, Side], options: CompareOptions) -> None:
        result = self._result
        result.count_a += 1
        result.count_b += 1
        likeness = compare_pair(pair, sides, options.tolerance)
        self._note_pixels(likeness)
        reason = likeness.reason or self._order(pair) or (self._times(pair) if options.times else "")
        if reason:
            result.different += 1
            self._reasons[reason] += 1
            self._note_first(pair.a, sides[0])
        else:
            result.equal += 1

    def _order(self, pair: Pair) -> str:
        """Whether B has what comes before what in A behind it."""
        here, last = (pair.a.place, pair.b.place), self._last
        self._last = here
        return "order" if (here[0] > last[0]) != (here[1] > last[1]) else ""

    def _times(self, pair: Pair) -> str:
        apart = abs(pair.a.time_ns - pair.b.time_ns)
        largest = self._result.largest_time_difference_s or 0.0
        self._result.largest_time_difference_s = max(largest, apart / 1e9)
        return "log time" if apart else ""

    def _note_pixels(self, likeness: Likeness) -> None:
        pixels, result = likeness.pixels, self._result
        if pixels is None:
            return
        self._pixels += pixels.pixels
        self._differing += pixels.differing
        result.largest_difference = max(result.largest_difference or 0, pixels.largest)
        if math.isfinite(pixels.psnr):
            result.lowest_psnr = min(result.lowest_psnr or math.inf, pixels.psnr)

    def _note_first(self, message: Message, side: Side) -> None:
        if self._result.first_s is None:
            self._result.first_s = (message.time_ns - side.source.start_ns) / 1e9


def _types(name: str, topics: Sequence[Topic]) -> str:
    return ", ".join(sorted({topic.type for topic in topics if topic.name == name}))
