"""Calls of the network: which frames share one, how long the first of them waits, and the thread that runs it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread

from sapnet.derainer import Derained, Derainer
from sapnet.errors import describe
from sapnet_ros.camera import Camera
from sapnet_ros.loader import FAILURES
from sapnet_ros.mailbox import Received
from sapnet_ros.params import NodeParams

LIVE_S = 1.0  # a batch does not wait for a camera that was silent for longer
CALLS = 10  # recent calls, whose longest tells how long the next may take ...
MARGIN, MARGIN_S = 1.25, 0.005  # ... with this factor and addition, for a result in time


class Call:
    """A call of the network on frames of equal size.

    Once ``ended_s`` is set there are ``results``, one for each frame, or an ``error`` text. Times are steady.
    """

    def __init__(self, derainer: Derainer, batch: Sequence[Received], clock: Callable[[], float]) -> None:
        self.derainer = derainer
        self.batch = batch
        self._clock = clock
        self.started_s = clock()
        self.ended_s: float | None = None
        self.results: list[Derained] = []
        self.error = ""

    def run(self) -> None:
        """Derain."""
        try:
            self.results = self.derainer([held.decoded.bgr for held in self.batch])
        except FAILURES as err:
            self.error = describe(err)
        self.ended_s = self._clock()


class Inference:
    """Runs calls of the network on its own thread, so that one that hangs blocks nothing else.

    on_end: called on that thread after each call.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self.thread = Thread(target=self._run, name="inference", daemon=True)
        self.thread.start()

    def start(self, call: Call) -> None:
        """Run a call after the earlier ones."""
        self._calls.put(call)

    def close(self) -> None:
        """End the thread after the last call; if that hangs, it never ends."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            self._on_end()


class Batching:
    """Groups frames of equal size; the least recently derained camera goes first. clock: steady seconds.

    turns: camera names, the next one first. calls_s: durations of the last calls.
    """

    def __init__(self, cameras: Mapping[str, Camera], clock: Callable[[], float] = time.monotonic) -> None:
        self._cameras = cameras
        self._clock = clock
        self.turns = list(cameras)
        self.calls_s: deque[float] = deque([0.0], maxlen=CALLS)

    def group(self, in_hand: Mapping[str, Received]) -> list[Received]:
        """The frames in hand that would share the next call."""
        held = [in_hand[name] for name in self.turns if name in in_hand]
        return [one for one in held if one.size == held[0].size]

    def may_join(self, frame: Received, in_hand: Iterable[Received], derainer: Derainer | None) -> bool:
        """Whether a frame would start a batch, or may join the current one."""
        sizes = [held.size for held in in_hand]
        if not sizes:
            return True
        same = set(sizes) == {frame.size}
        return derainer is not None and same and derainer.is_ready(*sizes[0], batch=len(sizes) + 1)

    def wait_until_s(
        self,
        group: Sequence[Received],
        derainer: Derainer,
        params: NodeParams,
        due_s: Callable[[Received], float],
    ) -> float | None:
        """Until when a group waits for frames of other cameras; None if it does not wait.

        due_s: returns a frame's deadline, which bounds the wait.
        """
        now_s = self._clock()
        names = {held.camera for held in group}
        call_s = MARGIN * max(self.calls_s) + MARGIN_S
        until_s = min(held.received_s for held in group) + params.batch_wait_ms / 1000
        until_s = min(until_s, *(due_s(held) - call_s for held in group))
        others = [camera for name, camera in self._cameras.items() if name not in names]
        size = group[0].size
        worth_it = (
            now_s < until_s
            and any(_may_come(camera, size, until_s, now_s, params) for camera in others)
            and derainer.is_ready(*size, batch=len(group) + 1)
        )
        return until_s if worth_it else None

    def start(self, derainer: Derainer, group: Sequence[Received]) -> Call:
        """The call for a group, or for its first frame if the network is not ready for that batch size."""
        if len(group) > 1 and not derainer.is_ready(*group[0].size, batch=len(group)):
            group = group[:1]
        call = Call(derainer, group, self._clock)
        for held in group:
            held.parts.wait_s = call.started_s - held.received_s - held.parts.preprocess_s
            self._cameras[held.camera].gate.note_look(call.started_s)
            self.turns.remove(held.camera)
            self.turns.append(held.camera)
        return call


def _may_come(camera: Camera, size: tuple[int, int], until_s: float, now_s: float, params: NodeParams) -> bool:
    """Whether a camera is likely to send a frame of this size to derain before ``until_s``."""
    return (
        camera.size == size
        and camera.enabled
        and camera.stats.silent_s(now_s) < LIVE_S
        and camera.stats.expected_s < until_s
        and not camera.gate.passes(now_s, params)
    )
