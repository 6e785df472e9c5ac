"""Dispatches frames: to the network, through unchanged, or dropped."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Thread

from sapnet.derainer import Derained
from sapnet.errors import ImageFormatError, describe
from sapnet.images.messages import decode_compressed, decode_image
from sapnet_ros import fate as fates
from sapnet_ros.batching import Batching, Call, Inference
from sapnet_ros.camera import Camera
from sapnet_ros.fate import Fate
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Mailbox, Received
from sapnet_ros.params import NodeParams

NEVER = math.inf
# From receipt; a driver that sends the camera_info after the image does so at once.
INFO_WAIT_S = 0.05


@dataclass(frozen=True, eq=False)
class Settled:
    """A frame to publish. until_s: how long it may wait for its camera_info, steady time."""

    frame: Received
    fate: Fate
    derained: Derained | None
    until_s: float


class Dispatch:
    """Settles every frame of all cameras exactly once, each camera's in order of receipt.

    A camera has at most one frame in hand, so that none can overtake another. Frames that have reached their deadline,
    and those that need no network, do not wait for it. One thread dispatches and publishes, another runs the network.

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
        self._loader = loader
        self._params = params
        now = params()
        decode = decode_compressed if now.image_transport == "compressed" else decode_image
        self._decode = functools.partial(decode, max_pixels=now.max_pixels, input_bits=now.input_bits)
        self._log_error = log_error
        self._make_inference = functools.partial(make_inference, self._mailbox.wake)
        self._clock = clock
        self._batching = Batching(cameras, clock)
        self._in_hand: dict[str, Received] = {}
        self._settled: dict[str, Settled] = {}
        self._call: Call | None = None
        self._give_up_s = NEVER
        self._inference = self._make_inference()
        self._thread = Thread(target=self._run, name="worker", daemon=True)
        for camera in cameras.values():
            camera.steadier.forget()

    def start(self) -> None:
        """Dispatch frames on a thread, until ``close``."""
        self._thread.start()

    def put(self, frame: Received) -> None:
        """Queue a frame, which was counted as received."""
        for lost in self._mailbox.put(frame, self._params().on_overload == "passthrough"):
            self._cameras[lost.camera].stats.count_dropped(fates.SHUTDOWN if lost is frame else fates.OVERLOAD)

    def wake(self) -> None:
        """Reconsider all frames, after a change that takes effect at once."""
        self._mailbox.wake()

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
        took = [self._take_from(name, params) for name in self._batching.turns]
        self._settle_missed(params)
        next_s = min(self._start_call(params), self._next_s(params))
        return self._clock() if any(took) else next_s

    def _end(self) -> None:
        """Drop the frames in hand, and end the thread of the network."""
        if self._in_hand and self._call is not None:
            self._log_error("give-up", "the network does not finish in time: its frames are dropped")
        for held in list(self._in_hand.values()):
            self._settle(held, Fate(fates.SHUTDOWN, dropped=True))
        for settled in self._settled.values():
            self._publish(settled)
        self._inference.close()

    def _end_call(self, call: Call, ended_s: float, params: NodeParams) -> None:
        self._call = None
        call_s = ended_s - call.started_s
        self._batching.calls_s.append(call_s)
        if call.error:
            self._loader.note_failure(call.error)
        for index, held in enumerate(call.batch):
            camera = self._cameras[held.camera]
            derained = None if call.error else call.results[index]
            # Also for a late frame: the gate must not stay shut because every result is late.
            dry = False
            if derained is not None:
                camera.stats.rain_score = derained.rain_score
                dry = camera.gate.note_score(derained.rain_score, ended_s, params)
            if self._in_hand.get(held.camera) is not held:
                continue  # settled when its deadline came
            held.parts.inference_s = call_s
            if ended_s >= self._due_s(held, params):
                self._settle(held, fates.missed(params))
                continue
            camera.stats.missed_in_row = 0
            if derained is None:
                self._settle(held, fates.failed(call.error, params))
            elif dry:
                self._settle(held, Fate(fates.DRY))
            else:
                image = camera.steadier(derained.image, params.steadiness)
                self._settle(held, Fate(), replace(derained, image=image))

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
        for held in list(self._in_hand.values()):
            self._settle(held, fates.failed(error, params))

    def _settle_missed(self, params: NodeParams) -> None:
        """Settle the frames in hand that have missed their deadline."""
        for held in list(self._in_hand.values()):
            if self._clock() >= self._due_s(held, params):
                self._settle(held, fates.missed(params))

    def _take_from(self, name: str, params: NodeParams) -> bool:
        """Take a camera's oldest frame if it can be settled, or derained next; returns whether there was one."""
        if name in self._in_hand or name in self._settled or (head := self._mailbox.head(name)) is None:
            return False
        camera, now_s = self._cameras[head.camera], self._clock()
        fate = fates.decide(
            head,
            self._loader,
            params,
            now_s,
            self._due_s(head, params),
            watched=not params.lazy or camera.watched,
            enabled=camera.enabled,
            gate=camera.gate,
        )
        waits = self._call is not None
        if fate is None and (waits or not self._batching.may_join(head, self._in_hand.values(), self._loader.derainer)):
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
            self._finish(head, fate)
        else:
            self._in_hand[head.camera] = head
        return True

    def _start_call(self, params: NodeParams) -> float:
        """Send frames of equal size to the network; returns until when to wait for more of them."""
        derainer, group = self._loader.derainer, self._batching.group(self._in_hand)
        if self._call is not None or self._mailbox.closed or not group or derainer is None:
            return NEVER
        until_s = self._batching.wait_until_s(group, derainer, params, lambda frame: self._due_s(frame, params))
        if until_s is not None:
            return until_s
        self._call = self._batching.start(derainer, group)
        self._inference.start(self._call)
        return NEVER

    def _next_s(self, params: NodeParams) -> float:
        """The next time at which a call counts as hung, a deadline is due, or waiting for a camera_info ends."""
        heads = [head for name in self._cameras if (head := self._mailbox.head(name)) is not None]
        due_s = min((self._due_s(frame, params) for frame in (*self._in_hand.values(), *heads)), default=NEVER)
        next_s = min((settled.until_s for settled in self._settled.values()), default=due_s)
        hangs_s = NEVER if self._call is None else self._call.started_s + params.hang_timeout_s
        return min(due_s, next_s, hangs_s)

    def _due_s(self, frame: Received, params: NodeParams) -> float:
        """When the original must be sent to meet the deadline."""
        if not params.deadline_ms:
            return NEVER
        # Frames of several cameras are published one after another.
        pending = sum(name in self._in_hand or self._mailbox.head(name) is not None for name in self._cameras)
        deadline_s = params.deadline_ms / 1000
        lead_s = max(1, pending) * self._cameras[frame.camera].stats.passing_s
        # The network gets at least half of the time.
        return frame.received_s + deadline_s - min(lead_s, deadline_s / 2)

    def _settle(self, held: Received, fate: Fate, derained: Derained | None = None) -> None:
        del self._in_hand[held.camera]
        self._finish(held, fate, derained)

    def _finish(self, frame: Received, fate: Fate, derained: Derained | None = None) -> None:
        """Count a frame, and publish it now or once its camera_info has come."""
        camera = self._cameras[frame.camera]
        if derained is None:
            camera.steadier.forget()
        if fate.kind == fates.DEADLINE:
            camera.stats.missed_in_row += 1
            if camera.stats.missed_in_row % self._params().diagnostics_missed_in_row == 0:
                self._loader.review_stages()
        if fate.error:
            self._log_error(f"{camera.label}:{fate.kind}", f"{camera.label}: {fate.error}")
        if fate.dropped:
            camera.stats.count_dropped(fate.reason, fate.error)
            return
        until_s = min(frame.received_s + INFO_WAIT_S, self._due_s(frame, self._params()))
        self._settled[frame.camera] = Settled(frame, fate, derained, until_s)
        self._publish_settled()

    def _publish_settled(self) -> None:
        """Publish the frames that wait for no camera_info any more."""
        for name, settled in list(self._settled.items()):
            waits = self._clock() < settled.until_s
            if not (waits and self._cameras[name].awaits_info(settled.frame.message.header)):
                del self._settled[name]
                self._publish(settled)

    def _publish(self, settled: Settled) -> None:
        frame, fate, derained = settled.frame, settled.fate, settled.derained
        camera = self._cameras[frame.camera]
        try:
            camera.publish(frame, derained, fate.reason, self._params())
        except (ImageFormatError, RuntimeError, MemoryError) as err:  # RuntimeError: of rclpy
            camera.stats.count_dropped(fates.FAILURE, describe(err))
            self._log_error(f"{camera.label}:{type(err).__name__}", f"{camera.label}: {describe(err)}")
            return
        frame.parts.latency_s = self._clock() - frame.received_s
        camera.stats.count_published(frame.parts, fate.reason, fate.error)
