"""What is decided about every frame, step by step: which go to the network, which as they are, which nowhere."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace

from sapnet.derainer import Derained, Derainer
from sapnet.images.frame import MIN_SIDE
from sapnet_ros import failopen, reasons
from sapnet_ros.batching import Batching
from sapnet_ros.camera import Camera
from sapnet_ros.failopen import Outcome
from sapnet_ros.inference import Call, Inference, InHand
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Mailbox, Received
from sapnet_ros.params import NodeParams
from sapnet_ros.stats import Parts

NEVER = math.inf
AFTER_ERROR_S = 0.1


class Dispatch:
    """Takes the frames of all cameras to their fates: each one once, each camera's in order.

    A camera has at most one frame in hand, so that none can overtake another. Frames whose deadline comes, and
    those that need no network, do not wait for it. One thread calls; nothing here waits.

    mailbox: where the frames are. params: what holds now. log_error: gets a kind of error and its text.
    make_inference: what runs calls, anew where one hangs. clock: steady seconds.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        mailbox: Mailbox,
        loader: Loader,
        params: Callable[[], NodeParams],
        decode: failopen.Decode,
        log_error: Callable[[str, str], None],
        make_inference: Callable[[], Inference],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cameras = cameras
        self._mailbox = mailbox
        self._loader = loader
        self._params = params
        self._decode = decode
        self._log_error = log_error
        self._make_inference = make_inference
        self._clock = clock
        self._batching = Batching(cameras)
        self._in_hand: dict[str, InHand] = {}
        self._call: Call | None = None
        self._called: list[InHand] = []  # what the call is for, of which some may be settled meanwhile
        self._pending = 0  # cameras that have a frame in hand or in line
        self._inference = make_inference()
        for camera in cameras.values():
            camera.steadier.forget()

    @property
    def calling(self) -> bool:
        """Whether the network is at something, or its result waits for the next step."""
        return self._call is not None

    def step(self) -> float:
        """Do what can be done now; returns the steady time of what is to be done next, if nothing comes before."""
        try:
            return self._step(self._params())
        except Exception as err:  # an error of ours, not of a message or a backend: the node goes on
            self._log_error(f"worker:{type(err).__name__}", "".join(traceback.format_exception(err)))
            self._settle_all(reasons.FAILURE, str(err))
            return self._clock() + AFTER_ERROR_S

    def end(self) -> None:
        """Drop what is in hand, and let the thread of the network end."""
        if self._in_hand and self._call is not None:
            self._log_error("give-up", "what the network is at is not done in time: its frames are given up")
        self._settle_all(reasons.SHUTDOWN)
        self._inference.close()

    def _step(self, params: NodeParams) -> float:
        self._count_pending()
        if self._call is not None and self._call.ended_s is not None:
            self._end_call(self._call, self._call.ended_s, params)
        self._watch_call(params)
        if self._call is None:
            self._loader.close_replaced()
        self._count_pending()
        for held in list(self._in_hand.values()):
            if self._clock() >= self._due_s(held.frame, params):
                self._settle_missed(held, params)
        # One frame of each camera at a time: a flood of one must not keep the others, or a result, waiting.
        took = [self._take_from(name, params) for name in self._batching.turns]
        next_s = min(self._start_call(params), self._next_s(params))
        return self._clock() if any(took) else next_s

    def _end_call(self, call: Call, ended_s: float, params: NodeParams) -> None:
        called, self._call, self._called = self._called, None, []
        call_s = ended_s - call.started_s
        self._batching.note_ended(call_s)
        if call.error:
            self._loader.note_failure(call.error)
        else:
            self._loader.note_working()
        for index, held in enumerate(called):
            derained = None if call.error else call.results[index]
            # Also of a frame that was late: the gate must not stay shut because every look takes too long.
            dry = derained is not None and self._note_score(held, derained, ended_s, params)
            if self._in_hand.get(held.frame.camera) is not held:
                continue  # settled when its deadline came
            held.parts.inference_s = call_s
            if ended_s >= self._due_s(held.frame, params):
                self._settle_missed(held, params)
                continue
            self._cameras[held.frame.camera].stats.count_kept()
            if derained is None:
                self._settle(held, failopen.failed(held.decoded, call.error, params))
            elif dry:
                self._settle(held, Outcome(held.decoded, reason=reasons.DRY))
            else:
                self._settle(held, Outcome(held.decoded, derained=self._steadied(held, derained, params)))

    def _note_score(self, held: InHand, derained: Derained, ended_s: float, params: NodeParams) -> bool:
        """What the network has found; returns whether the frame is to pass through as dry."""
        camera = self._cameras[held.frame.camera]
        camera.stats.note_score(derained.rain_score)
        return camera.gate.note_score(derained.rain_score, ended_s, params.gate)

    def _steadied(self, held: InHand, derained: Derained, params: NodeParams) -> Derained:
        image = self._cameras[held.frame.camera].steadier(derained.image, params.steadiness)
        return derained if image is derained.image else replace(derained, image=image)

    def _watch_call(self, params: NodeParams) -> None:
        """Leave a call behind that hangs, and have the backend started anew."""
        call = self._call
        if call is None or self._clock() - call.started_s < params.hang_timeout_s:
            return
        error = f"the backend hangs: no result after {params.hang_timeout_s:g} s"
        left_behind, self._inference = self._inference, self._make_inference()
        left_behind.close()
        called, self._call, self._called = self._called, None, []
        self._loader.restart(call.derainer, error, left_behind.thread)
        for held in called:
            if self._in_hand.get(held.frame.camera) is held:
                self._settle(held, failopen.failed(held.decoded, error, params))

    def _take_from(self, name: str, params: NodeParams) -> bool:
        """Take a camera's oldest frame, if it can be settled, or be derained next; returns whether there was one."""
        if name in self._in_hand or (head := self._mailbox.head(name)) is None:
            return False
        if not (self._needs_no_network(head, params) or self._may_be_next(head)):
            return False
        # A newer one may have taken its place meanwhile, and the mailbox may have been closed.
        if (frame := self._mailbox.take(name)) is not None:
            try:
                self._look_at(frame, params)
            except Exception as err:  # of ours; the frame is lost, not the node
                self._log_error(f"look:{type(err).__name__}", "".join(traceback.format_exception(err)))
                self._cameras[name].stats.count_dropped(reasons.FAILURE, str(err))
        return frame is not None

    def _needs_no_network(self, frame: Received, params: NodeParams) -> bool:
        """As far as can be told without decoding it."""
        camera, now_s = self._cameras[frame.camera], self._clock()
        return (
            frame.overtaken
            or not (params.enabled and camera.enabled)
            or not self._loader.ready_for(frame.declared_size or camera.size or (0, 0))
            or camera.gate.passes(now_s, params.gate)
            or now_s >= self._due_s(frame, params)
        )

    def _may_be_next(self, frame: Received) -> bool:
        if self._call is not None:
            return False
        return self._batching.may_join(frame, self._in_hand.values(), self._loader.derainer)

    def _look_at(self, frame: Received, params: NodeParams) -> None:
        """Decode a frame; settle it, or have it in hand for the network."""
        began_s = self._clock()
        camera = self._cameras[frame.camera]
        parts = Parts(wait_s=began_s - frame.received_s)
        decoded = failopen.take_out(frame.message, self._decode)
        if isinstance(decoded, Outcome):
            self._settle_frame(frame, decoded, parts)
            return
        now_s = self._clock()
        parts.preprocess_s = now_s - began_s
        camera.size = size = decoded.bgr.shape[0], decoded.bgr.shape[1]
        if min(size) >= MIN_SIDE:
            self._loader.request(size)
        enabled = params.enabled and camera.enabled
        outcome = failopen.settled_at_sight(decoded, frame.overtaken, enabled, self._loader, params)
        if outcome is None and camera.gate.passes(now_s, params.gate):
            outcome = Outcome(decoded, reason=reasons.DRY)
        if outcome is None and now_s >= self._due_s(frame, params):
            camera.stats.count_missed()
            outcome = failopen.missed(decoded, params)
        if outcome is None:
            self._in_hand[frame.camera] = InHand(frame, decoded, parts)
        else:
            self._settle_frame(frame, outcome, parts)

    def _start_call(self, params: NodeParams) -> float:
        """Send frames of one size to the network; returns until when to wait for more of them."""
        if self._call is not None or self._mailbox.closed:
            return NEVER
        for held in list(self._in_hand.values()):
            # The network may have been taken away since the frame was looked at.
            if (outcome := failopen.not_ready(held.decoded, self._loader, params)) is not None:
                self._settle(held, outcome)
        derainer, group = self._loader.derainer, self._batching.group(self._in_hand)
        if not group or derainer is None:
            return NEVER
        now_s = self._clock()
        until_s = self._batching.wait_until_s(group, derainer, now_s, params, lambda frame: self._due_s(frame, params))
        if until_s > now_s:
            return until_s
        if len(group) > 1 and not derainer.is_ready(*group[0].size, batch=len(group)):
            group = group[:1]
        self._call_network(derainer, group, now_s)
        return NEVER

    def _call_network(self, derainer: Derainer, group: list[InHand], now_s: float) -> None:
        for held in group:
            held.parts.wait_s = now_s - held.frame.received_s - held.parts.preprocess_s
            self._cameras[held.frame.camera].gate.note_look(now_s)
        self._batching.note_started(group)
        self._called = group
        self._call = Call(derainer, [held.decoded.bgr for held in group], self._clock)
        self._inference.start(self._call)

    def _count_pending(self) -> None:
        self._pending = sum(name in self._in_hand or self._mailbox.head(name) is not None for name in self._cameras)

    def _next_s(self, params: NodeParams) -> float:
        """When a call hangs, or the next deadline comes."""
        heads = [head for name in self._cameras if (head := self._mailbox.head(name)) is not None]
        frames = [*(held.frame for held in self._in_hand.values()), *heads]
        due_s = min((self._due_s(frame, params) for frame in frames), default=NEVER)
        return due_s if self._call is None else min(due_s, self._call.started_s + params.hang_timeout_s)

    def _due_s(self, frame: Received, params: NodeParams) -> float:
        """When the original must be on its way to be out by the deadline."""
        if not params.deadline_ms:
            return NEVER
        # Those of several cameras go out one after another.
        deadline_s = params.deadline_ms / 1000
        lead_s = max(1, self._pending) * self._cameras[frame.camera].stats.passing_s
        # However slow that was once, the network gets half of the time.
        return frame.received_s + deadline_s - min(lead_s, deadline_s / 2)

    def _settle_missed(self, held: InHand, params: NodeParams) -> None:
        """Its deadline came before its result."""
        self._cameras[held.frame.camera].stats.count_missed()
        self._settle(held, failopen.missed(held.decoded, params))

    def _settle_all(self, reason: str, error: str = "") -> None:
        for held in list(self._in_hand.values()):
            self._settle(held, Outcome(reason=reason, error=error, kind=reason))

    def _settle(self, held: InHand, outcome: Outcome) -> None:
        del self._in_hand[held.frame.camera]
        self._settle_frame(held.frame, outcome, held.parts)

    def _settle_frame(self, frame: Received, outcome: Outcome, parts: Parts) -> None:
        """Publish and count."""
        camera = self._cameras[frame.camera]
        if outcome.derained is None:
            camera.steadier.forget()
        if outcome.error:
            self._log_error(f"{camera.label}:{outcome.kind}", f"{camera.label}: {outcome.error}")
        if outcome.decoded is None:
            camera.stats.count_dropped(outcome.reason, outcome.error)
            return
        try:
            camera.publish(frame.message.header, outcome, self._params(), frame.received_s, parts)
        except Exception as err:  # a frame that cannot be written as JPEG, or an error of ours
            camera.stats.count_dropped(reasons.FAILURE, str(err))
            self._log_error(f"{camera.label}:{type(err).__name__}", "".join(traceback.format_exception(err)))
            return
        parts.total_s = self._clock() - frame.received_s
        if outcome.derained is None:
            camera.stats.count_passed_through(outcome.reason, outcome.error, parts)
        else:
            camera.stats.count_derained(parts)
