"""Reads, decodes and derains the messages of a recording in order, each step on a thread of its own."""

from __future__ import annotations

import sys
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, count, islice

from sapnet.bags.cameras import BagOptions, Camera, Item
from sapnet.bags.recording import FIRST_NS, LAST_NS, Message, Recording, Topic
from sapnet.bags.types import decode
from sapnet.derainer import Derainer
from sapnet.errors import ImageFormatError
from sapnet.images.frame import require_frame

# Messages go from step to step in groups: a batch of frames with what lies between them, or so much of other messages.
_GROUP_BYTES = 16 * 2**20
_GROUP_MESSAGES = 10_000

Groups = Generator[list[Item], None, None]


def derained_items(
    derainer: Derainer, bag: Recording, cameras: Sequence[Camera], options: BagOptions, done: int
) -> Generator[Item, None, None]:
    """Iterate over the selected messages after the first ``done``. Raises BackendError, BagError."""
    read = _grouped(_read(bag, cameras, options, done), options.batch)
    with closing(_ahead(_derain(derainer, _ahead(read)))) as groups:
        for group in groups:
            yield from group


def expected_messages(bag: Recording, options: BagOptions) -> int:
    """Estimated number of selected messages, in proportion to the selected time."""
    start_ns, stop_ns = _span(bag, options)
    share = (min(stop_ns, bag.end_ns) - max(start_ns, bag.start_ns)) / max(1, bag.end_ns - bag.start_ns)
    return round(bag.count * max(0.0, share))


def _span(bag: Recording, options: BagOptions) -> tuple[int, int]:
    """Log times of what is selected. Without limits that is everything, whatever times the recording claims."""
    start_ns = bag.start_ns + round(options.start_s * 1e9)
    stop_ns = start_ns + round(options.duration_s * 1e9)
    return start_ns if options.start_s else FIRST_NS, stop_ns if options.duration_s else LAST_NS


def _read(bag: Recording, cameras: Sequence[Camera], options: BagOptions, done: int) -> Iterator[Item]:
    """Messages, with their frames decoded."""
    by_topic = {camera.topic: camera for camera in cameras}
    turns: defaultdict[Topic, Iterator[int]] = defaultdict(count)
    newest = _first_infos(bag, cameras, options)
    for number, recorded in enumerate(_selected(bag, options)):
        topic = recorded.topic
        if topic in newest:
            newest[topic] = recorded.data
        item, turn = Item(number, recorded, by_topic.get(topic)), next(turns[topic])
        if number < done:
            continue
        if item.camera is not None and turn % options.stride == 0:
            try:
                frame = decode(recorded)
                require_frame(frame.decoded.bgr)
                item.frame, item.info = frame, newest.get(item.camera.info)
            except ImageFormatError as err:
                item.unreadable = str(err)
        yield item


def _selected(bag: Recording, options: BagOptions) -> Iterator[Message]:
    """The selected messages in order, preceded by what latched topics had published before the start."""
    start_ns, stop_ns = _span(bag, options)
    kept = {topic: deque[Message](maxlen=_latched(topic)) for topic in bag.topics if _latched(topic)}
    for recorded in bag.messages(list(kept), stop_ns=start_ns):
        kept[recorded.topic].append(recorded._replace(time_ns=start_ns))
    for messages in kept.values():
        yield from messages
    yield from bag.messages(None, start_ns, stop_ns)


def _latched(topic: Topic) -> int:
    """How many messages a late subscriber of a transient-local topic receives from all publishers; else 0."""
    depths = [max(1, profile.depth) for profile in topic.qos if profile.durability.name == "TRANSIENT_LOCAL"]
    return min(sum(depths), sys.maxsize)


def _first_infos(bag: Recording, cameras: Sequence[Camera], options: BagOptions) -> dict[Topic | None, bytes]:
    """For frames before the first camera_info: the newest before the start, else the first of the recording."""
    infos = [camera.info for camera in cameras if camera.info is not None]
    first = chain.from_iterable(islice(bag.messages([topic]), 1) for topic in infos)
    before = bag.messages(infos, stop_ns=_span(bag, options)[0])
    return {recorded.topic: recorded.data for recorded in chain(first, before)}


def _grouped(items: Iterator[Item], batch: int) -> Groups:
    """Groups that end with the last frame of a batch."""
    group: list[Item] = []
    frames, held = 0, 0
    for item in items:
        group.append(item)
        frames += item.frame is not None
        held += 0 if item.frame is not None else len(item.recorded.data)
        if frames == batch or held >= _GROUP_BYTES or len(group) == _GROUP_MESSAGES:
            yield group
            group, frames, held = [], 0, 0
    yield group


def _derain(derainer: Derainer, groups: Groups) -> Groups:
    """The same groups, with their frames derained."""
    with closing(groups):
        for group in groups:
            due = [(item, item.frame.decoded.bgr) for item in group if item.frame is not None]
            if due:
                began = time.perf_counter()
                results = derainer([frame for _, frame in due])
                each_ms = (time.perf_counter() - began) * 1e3 / len(due)
                for (item, _), result in zip(due, results, strict=True):
                    item.derained, item.latency_ms = result, each_ms
            yield group


def _ahead(groups: Groups) -> Groups:
    """The same groups, each of them made on a thread while the one before is in use."""
    with closing(groups), ThreadPoolExecutor(1, "ahead") as thread:
        made = thread.submit(next, groups, None)
        while (group := made.result()) is not None:
            made = thread.submit(next, groups, None)
            yield group
