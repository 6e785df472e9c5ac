"""Reads, decodes and derains the messages of a recording in order, each step on a thread of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice
from threading import Condition, Thread

from sapnet.bags.cameras import Camera, Item
from sapnet.bags.options import BagOptions
from sapnet.bags.recording import Message, Recording, Topic
from sapnet.bags.types import decode
from sapnet.derainer import Derainer
from sapnet.errors import ImageFormatError
from sapnet.images.frame import require_frame

# Bytes of messages and frames that each of the steps may hold in advance.
AHEAD_BYTES = 16 * 2**20


class Steps:
    """The pipeline of one recording."""

    def __init__(self, derainer: Derainer, bag: Recording, cameras: Sequence[Camera], options: BagOptions) -> None:
        self._derainer = derainer
        self._bag = bag
        self._cameras = {camera.topic: camera for camera in cameras}
        self._infos = [camera.info for camera in cameras if camera.info is not None]
        self._options = options
        self._start_ns = bag.start_ns + round(options.start_s * 1e9)
        self._stop_ns = self._start_ns + round(options.duration_s * 1e9) if options.duration_s else bag.end_ns
        share = (min(self._stop_ns, bag.end_ns) - self._start_ns) / max(1, bag.end_ns - bag.start_ns)
        # Estimated number of messages, in proportion to the selected time.
        self.expected = round(bag.count * max(0.0, share))

    def items(self, done: int) -> Generator[Item, None, None]:
        """Iterate over the selected messages after the first ``done``. Raises BackendError, BagError."""
        yield from _ahead(self._derain(_ahead(self._read(done))))

    def _read(self, done: int) -> Generator[Item, None, None]:
        """Messages, with their frames decoded."""
        seen = dict.fromkeys(self._cameras, 0)
        newest = self._first_infos()
        for number, recorded in enumerate(self._recorded()):
            topic = recorded.topic
            if topic in newest:
                newest[topic] = recorded.data
            camera = self._cameras.get(topic)
            skipped = False
            if camera is not None:
                skipped = seen[topic] % self._options.stride > 0
                seen[topic] += 1
            if number < done:
                continue
            item = Item(number, recorded, camera, skipped)
            if camera is not None and not skipped:
                try:
                    item.frame = decode(recorded)
                    require_frame(item.frame.decoded.bgr)
                    item.info = newest.get(camera.info) if camera.info is not None else None
                except ImageFormatError as err:
                    item.frame, item.unreadable = None, str(err)
            yield item

    def _recorded(self) -> Generator[Message, None, None]:
        """The selected messages in order, preceded by what latched topics had published before the start."""
        if self._options.start_s:
            kept = {t: deque[Message](maxlen=_latched(t)) for t in self._bag.topics if _latched(t)}
            for recorded in self._bag.messages(list(kept), stop_ns=self._start_ns):
                kept[recorded.topic].append(recorded._replace(time_ns=self._start_ns))
            for messages in kept.values():
                yield from messages
        # Without limits all is read, whatever times the recording claims.
        start_ns = self._start_ns if self._options.start_s else None
        stop_ns = self._stop_ns if self._options.duration_s else None
        yield from self._bag.messages(start_ns=start_ns, stop_ns=stop_ns)

    def _first_infos(self) -> dict[Topic, bytes]:
        """For frames before the first camera_info: the newest before the start, else the first of the recording."""
        newest = {topic: recorded.data for topic in self._infos for recorded in islice(self._bag.messages([topic]), 1)}
        if self._options.start_s:
            for recorded in self._bag.messages(self._infos, stop_ns=self._start_ns):
                newest[recorded.topic] = recorded.data
        return newest

    def _derain(self, items: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """The same items, with their frames derained in batches."""
        waiting: list[Item] = []
        frames, held = 0, 0
        with closing(items):
            for item in items:
                waiting.append(item)
                frames += item.frame is not None
                held += item.bytes_held if item.frame is None else 0
                if frames in (0, self._options.batch) or held >= AHEAD_BYTES:
                    yield from self._derained(waiting)
                    waiting, frames, held = [], 0, 0
            yield from self._derained(waiting)

    def _derained(self, items: list[Item]) -> list[Item]:
        due = [(item, item.frame.decoded.bgr) for item in items if item.frame is not None]
        if due:
            began = time.perf_counter()
            results = self._derainer([frame for _, frame in due])
            backend = f"{self._derainer.backend_name} {self._derainer.precision}"
            each_ms = (time.perf_counter() - began) * 1e3 / len(due)
            for (item, _), result in zip(due, results, strict=True):
                item.derained, item.latency_ms, item.backend = result, each_ms, backend
        return items


def _latched(topic: Topic) -> int:
    """How many messages a late subscriber of a transient-local topic receives from all publishers; else 0."""
    return sum(max(1, profile.depth) for profile in topic.qos if profile.durability.name == "TRANSIENT_LOCAL")


def _ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same items in the same order, made on a thread of their own while earlier ones are in use.

    At most AHEAD_BYTES and one item are made ahead. What ``items`` raises is raised here in its place. Closing this
    generator closes ``items`` and ends the thread.
    """
    made: deque[tuple[Item, int]] = deque()
    change = Condition()
    failure: list[BaseException] = []
    held, done, stopped = 0, False, False

    def has_room() -> bool:
        return stopped or held < AHEAD_BYTES

    def make() -> None:
        nonlocal held, done
        try:
            with closing(items):
                for item in items:
                    with change:
                        made.append((item, item.bytes_held))
                        held += made[-1][1]
                        change.notify_all()
                        change.wait_for(has_room)
                        if stopped:
                            return
        except BaseException as err:
            failure.append(err)
        finally:
            with change:
                done = True
                change.notify_all()

    thread = Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            with change:
                change.wait_for(lambda: made or done)
                if not made:
                    break
                item, bytes_held = made.popleft()
                held -= bytes_held
                change.notify_all()
            yield item
    finally:
        with change:
            stopped = True
            change.notify_all()
        thread.join()
    if failure:
        raise failure[0]
