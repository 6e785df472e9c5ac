"""Dispatches frames: to the network, through unchanged, or dropped."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Thread
from typing import Any

from sapnet.derainer import Derained
from sapnet.errors import ImageFormatError, describe
from sapnet.images.messages import decode_compressed, decode_image
from sapnet_ros import fate as fates
from sapnet_ros.camera import Camera, image_size_of
from sapnet_ros.fate import Fate, Received
from sapnet_ros.inference import Call, Inference
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Mailbox
from sapnet_ros.params import NodeParams

NEVER = math.inf
# From receipt; a driver that sends the camera_info after the image does so at once.
INFO_WAIT_S = 0.05
LIVE_S = 1.0  # a batch does not wait for a camera that was silent for longer
CALLS = 10  # recent calls, whose longest tells how long the next may take ...
MARGIN, MARGIN_S = 1.25, 0.005  # ... with this factor and addition, for a result in time


class Dispatch:
    """Settles every frame of all cameras exactly once, each camera's in order of receipt.

    A camera has at most one frame out of its mailbox, so that none can overtake another. Frames that have reached their
    deadline, and those that need no network, do not wait for it. Frames of equal size share a call of the network; the
    least recently derained camera goes first. One thread dispatches and publishes, another runs the network.

    params: returns the current parameters. log_error: receives a kind of error and its text. make_inference: makes an
    Inference, another one when a call hangs. clock: steady seconds.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        loader: Loader,
        params: Callable[[], NodeParams],
        log_error: Callable[[str, str], None],
        make_inference: Callable[[Callable[[], None]], Inference] = Inference,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cameras = cameras
        self._mailbox = Mailbox(tuple(cameras))
        self.wake = self._mailbox.wake  # has all frames reconsidered, after a change that takes effect at once
        self._loader = loader
        self._params = params
        now = params()
        decode = decode_compressed if now.image_transport == "compressed" else decode_image
        self._decode = functools.partial(decode, max_pixels=now.max_pixels, input_bits=now.input_bits)
        self._log_error = log_error
        self._make_inference = functools.partial(make_inference, self.wake)
        self._clock = clock
        self._held: dict[str, Received] = {}  # by camera: a frame taken from its mailbox, until published or dropped
        self._turns = list(cameras)  # the least recently derained first
        self._call: Call | None = None
        self._calls_s = deque([0.0], maxlen=CALLS)
        self._give_up_s = NEVER
        self._inference = self._make_inference()
        self._thread = Thread(target=self._run, name="worker", daemon=True)
        for camera in cameras.values():
            camera.steadier.forget()

    def start(self) -> None:
        """Dispatch frames on a thread, until ``close``."""
        self._thread.start()

    def receive(self, name: str, message: Any) -> None:
        """Count and queue a camera's image message, when it comes."""
        frame = Received(name, message, self._clock())
        self._cameras[name].stats.count_received(frame.received_s)
        # Once closed, there may be no parameters any more.
        keep_overtaken = not self._mailbox.closed and self._params().on_overload == "passthrough"
        for lost in self._mailbox.put(frame, keep_overtaken):
            self._cameras[name].stats.count_dropped(fates.SHUTDOWN if lost is frame else fates.OVERLOAD)

    def receive_info(self, name: str, info: Any) -> None:
        """Prepare the frame size before the first frame; after that, the frames' own size counts."""
        self.wake()  # where a frame waits for it
        height, width = image_size_of(info)
        if not (self._cameras[name].size or self._mailbox.closed) and height * width <= self._params().max_pixels:
            self._loader.request((height, width))

    def close(self, timeout_s: float) -> None:
        """Drop queued frames, and end after the current call of the network, or after ``timeout_s``.

        Every frame is settled afterwards.
        """
        self._give_up_s = time.monotonic() + timeout_s
        for frame in self._mailbox.close():
            self._cameras[frame.camera].stats.count_dropped(fates.SHUTDOWN)
        self._thread.join(timeout_s + 1.0)

    def _run(self) -> None:
        while not self._mailbox.closed or self._call is not None:
            next_s = min(self.step(), self._give_up_s)
            if self._mailbox.closed and (self._call is None or time.monotonic() >= self._give_up_s):
                break
            self._mailbox.wait(None if next_s == NEVER else max(0.0, next_s - time.monotonic()))
        self._end()

    def step(self) -> float:
        """Do what can be done now, without blocking; returns the steady time of the next step, unless woken earlier."""
        params = self._params()
        if self._call is not None and self._call.ended_s is not None:
            self._end_call(self._call, self._call.ended_s, params)
        self._watch_call(params)
        if self._call is None:
            self._loader.close_replaced()
        self._publish_settled()
        self._settle_missed(params)
        # One frame of each camera at a time: a flood of one must not keep the others, or a result, waiting.
        took = [self._take_from(name, params) for name in self._turns]
        self._settle_missed(params)
        next_s = min(self._start_call(params), self._next_s(params))
        return self._clock() if any(took) else next_s

    def _end(self) -> None:
        """Settle the frames that are held, without the network, and end its thread."""
        in_hand = self._in_hand()
        if in_hand and self._call is not None:
            self._log_error("give-up", "the network does not finish in time: its frames are dropped")
        for frame in in_hand:
            self._settle(frame, Fate(fates.SHUTDOWN, dropped=True))
        for frame in list(self._held.values()):
            self._publish(frame)
        self._inference.close()

    def _in_hand(self) -> list[Received]:
        """The frames that are to be derained, in turn: those of the call, or of the next one, all of equal size."""
        held = [self._held[name] for name in self._turns if name in self._held]
        return [frame for frame in held if frame.fate is None]

    def _end_call(self, call: Call, ended_s: float, params: NodeParams) -> None:
        self._call = None
        call_s = ended_s - call.started_s
        self._calls_s.append(call_s)
        if call.error:
            self._loader.note_failure(call.error)
        for frame, derained in zip(call.batch, call.results, strict=True):
            camera = self._cameras[frame.camera]
            # Also for a late frame: the gate must not stay shut because every result is late.
            dry = False
            if derained is not None:
                camera.stats.rain_score = derained.rain_score
                dry = camera.gate.note_score(derained.rain_score, ended_s, params)
            if frame.fate is not None:
                continue  # settled when its deadline came
            frame.parts.inference_s = call_s
            if ended_s >= self._due_s(frame, params):
                self._settle(frame, fates.missed(params))
                continue
            camera.stats.missed_in_row = 0
            if derained is None:
                self._settle(frame, fates.failed(call.error, params))
            elif dry:
                self._settle(frame, Fate(fates.DRY))
            else:
                image = camera.steadier(derained.image, params.steadiness)
                self._settle(frame, Fate(), replace(derained, image=image))

    def _watch_call(self, params: NodeParams) -> None:
        """Abandon a call that hangs, and restart the backend."""
        call = self._call
        if call is None or self._clock() - call.started_s < params.hang_timeout_s:
            return
        error = f"the backend hangs: no result after {params.hang_timeout_s:g} s"
        left_behind, self._inference, self._call = self._inference, self._make_inference(), None
        left_behind.close()
        self._loader.restart(call.derainer, error, left_behind.thread, call.started_s)
        # Those of the call, and those that waited for the next one.
        for frame in self._in_hand():
            self._settle(frame, fates.failed(error, params))

    def _settle_missed(self, params: NodeParams) -> None:
        """Settle the frames in hand that have missed their deadline."""
        for frame in self._in_hand():
            if self._clock() >= self._due_s(frame, params):
                self._settle(frame, fates.missed(params))

    def _take_from(self, name: str, params: NodeParams) -> bool:
        """Take a camera's oldest frame if it can be settled, or derained next; returns whether there was one."""
        if name in self._held or (head := self._mailbox.head(name)) is None:
            return False
        camera, now_s = self._cameras[name], self._clock()
        fate = fates.decide(head, camera, self._loader, params, now_s, self._due_s(head, params))
        if fate is None and not self._may_join(head):
            return False
        if not self._mailbox.take(head):
            return True  # a newer one has taken its place
        head.parts.wait_s = now_s - head.received_s
        if fate is None or not fate.dropped:
            try:
                head.decoded = self._decode(head.message)
            except ImageFormatError as err:
                fate = fates.unreadable(err)
            except MemoryError:
                fate = Fate(fates.FAILURE, dropped=True, error="too little memory for the frame", kind=fates.FAILURE)
        if head.decoded is not None or (fate is not None and fate.reason == fates.UNWATCHED):
            camera.size = head.size
            self._loader.request(head.size)
        head.parts.preprocess_s = self._clock() - now_s
        if fate is not None:
            self._settle(head, fate)
        else:
            self._held[name] = head
        return True

    def _may_join(self, frame: Received) -> bool:
        """Whether a frame would start a batch, or may join the one that waits for its call."""
        if self._call is not None:
            return False
        in_hand = self._in_hand()
        return not in_hand or (in_hand[0].size == frame.size and self._loader.ready_for(frame.size, len(in_hand) + 1))

    def _start_call(self, params: NodeParams) -> float:
        """Send the frames in hand to the network; returns until when to wait for those of other cameras."""
        derainer, batch = self._loader.derainer, self._in_hand()
        if self._call is not None or self._mailbox.closed or not batch or derainer is None:
            return NEVER
        until_s = self._wait_until_s(batch, params)
        if until_s > self._clock():
            return until_s
        if not derainer.is_ready(*batch[0].size, batch=len(batch)):  # the loader may have another one by now
            batch = batch[:1]
        self._call = call = Call(derainer, batch, self._clock)
        for frame in batch:
            frame.parts.wait_s = call.started_s - frame.received_s - frame.parts.preprocess_s
            self._cameras[frame.camera].gate.note_look(call.started_s)
            self._turns.remove(frame.camera)
            self._turns.append(frame.camera)
        self._inference.start(call)
        return NEVER

    def _wait_until_s(self, batch: Sequence[Received], params: NodeParams) -> float:
        """Until when a batch waits for frames of other cameras that are likely to come."""
        now_s, size = self._clock(), batch[0].size
        call_s = MARGIN * max(self._calls_s) + MARGIN_S
        until_s = min(
            min(frame.received_s + params.batch_wait_ms / 1000, self._due_s(frame, params) - call_s) for frame in batch
        )
        others = [camera for name, camera in self._cameras.items() if name not in {frame.camera for frame in batch}]
        likely = any(
            camera.size == size
            and camera.enabled
            and camera.stats.silent_s(now_s) < LIVE_S
            and camera.stats.expected_s < until_s
            and not camera.gate.passes(now_s, params)
            for camera in others
        )
        return until_s if likely and self._loader.ready_for(size, len(batch) + 1) else now_s

    def _next_s(self, params: NodeParams) -> float:
        """The next time at which a call counts as hung, a deadline is due, or waiting for a camera_info ends."""
        heads = [head for name in self._cameras if (head := self._mailbox.head(name)) is not None]
        times_s = [self._due_s(frame, params) for frame in (*self._in_hand(), *heads)]
        times_s += [frame.until_s for frame in self._held.values() if frame.fate is not None]
        if self._call is not None:
            times_s.append(self._call.started_s + params.hang_timeout_s)
        return min(times_s, default=NEVER)

    def _due_s(self, frame: Received, params: NodeParams) -> float:
        """When the original must be sent to meet the deadline."""
        if not params.deadline_ms:
            return NEVER
        # Frames of several cameras are published one after another.
        pending = sum(name in self._held or self._mailbox.head(name) is not None for name in self._cameras)
        deadline_s = params.deadline_ms / 1000
        lead_s = max(1, pending) * self._cameras[frame.camera].stats.passing_s
        # The network gets at least half of the time.
        return frame.received_s + deadline_s - min(lead_s, deadline_s / 2)

    def _settle(self, frame: Received, fate: Fate, derained: Derained | None = None) -> None:
        """Count a frame that is dropped; publish any other, now or once its camera_info has come."""
        camera, params = self._cameras[frame.camera], self._params()
        frame.fate, frame.derained = fate, derained
        if derained is None:
            camera.steadier.forget()
        if fate.kind == fates.DEADLINE:
            camera.stats.missed_in_row += 1
            if camera.stats.missed_in_row % params.diagnostics_missed_in_row == 0:
                self._loader.review_stages()
        if fate.error:
            self._log_error(f"{camera.label}:{fate.kind}", f"{camera.label}: {fate.error}")
        if fate.dropped:
            self._held.pop(frame.camera, None)
            camera.stats.count_dropped(fate.reason, fate.error)
            return
        self._held[frame.camera] = frame
        frame.until_s = min(frame.received_s + INFO_WAIT_S, self._due_s(frame, params))
        self._publish_settled()

    def _publish_settled(self) -> None:
        """Publish the frames that wait for no camera_info any more."""
        for name, frame in list(self._held.items()):
            if frame.fate is None:  # in hand
                continue
            waits = self._clock() < frame.until_s and self._cameras[name].awaits_info(frame.message.header)
            if not waits:
                self._publish(frame)

    def _publish(self, frame: Received) -> None:
        del self._held[frame.camera]
        camera, fate = self._cameras[frame.camera], frame.fate
        try:
            camera.publish(frame, self._params())
        except (ImageFormatError, RuntimeError, MemoryError) as err:  # RuntimeError: of rclpy
            camera.stats.count_dropped(fates.FAILURE, describe(err))
            self._log_error(f"{camera.label}:{type(err).__name__}", f"{camera.label}: {describe(err)}")
            return
        frame.parts.latency_s = self._clock() - frame.received_s
        camera.stats.count_published(frame.parts, fate.reason, fate.error)
