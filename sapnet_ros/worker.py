"""The one thread that decides on every frame and publishes; the network runs on another."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Thread

from sapnet.image import MIN_SIDE
from sapnet_ros import failopen, reasons
from sapnet_ros.camera import Camera
from sapnet_ros.failopen import Outcome
from sapnet_ros.inference import Call, Inference, InHand
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Mailbox, Received
from sapnet_ros.params import NodeParams
from sapnet_ros.stats import Parts

NEVER = math.inf
AFTER_ERROR_S = 0.1
LIVE_S = 1.0  # a batch does not wait for a camera that was silent for longer


class Worker:
    """Takes the frames of all cameras to their fates until it is closed: each one once, each camera's in order.

    A camera has at most one frame in hand, so that none can overtake another. Frames whose deadline comes, and
    those that need no network, do not wait for it.

    params: what holds now. log_error: gets a kind of error and its text. keep_thread: gets every thread that is made.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        loader: Loader,
        params: Callable[[], NodeParams],
        log_error: Callable[[str, str], None],
        keep_thread: Callable[[Thread], None],
    ) -> None:
        self._cameras = cameras
        self._loader = loader
        self._params = params
        self._log_error = log_error
        self._keep_thread = keep_thread
        self._decode = failopen.make_decoder(params(), keep_thread)
        self._mailbox = Mailbox(tuple(cameras))
        self._turns = list(cameras)  # the camera that was derained last comes last
        self._in_hand: dict[str, InHand] = {}
        self._call: Call | None = None
        self._call_s = 0.0  # how long the last one took
        self._pending = 0  # cameras that have a frame in hand or in line
        self._called: list[InHand] = []  # what the call is for, of which some may be settled meanwhile
        self._inference = self._make_inference()
        self._give_up_s = NEVER
        for camera in cameras.values():
            camera.steadier.forget()
        self.thread = Thread(target=self._run, name="worker", daemon=True)
        keep_thread(self.thread)
        self.thread.start()

    def put(self, frame: Received) -> None:
        """A frame has come, and is counted as received."""
        for lost in self._mailbox.put(frame, self._params().on_overload == "passthrough"):
            reason = reasons.SHUTDOWN if lost is frame else reasons.OVERLOAD
            self._cameras[lost.camera].stats.count_dropped(reason)

    def wake(self) -> None:
        """Something has changed that counts at once, such as a parameter."""
        self._mailbox.wake()

    def close(self, timeout_s: float) -> None:
        """Drop what waits, and end when what the network is at has come, or after ``timeout_s``.

        Every frame that was put has its fate afterwards.
        """
        self._give_up_s = time.monotonic() + timeout_s
        for frame in self._mailbox.close():
            self._cameras[frame.camera].stats.count_dropped(reasons.SHUTDOWN)
        self.thread.join(timeout_s + 1.0)

    def _make_inference(self) -> Inference:
        return Inference(self._mailbox.wake, self._keep_thread)

    def _run(self) -> None:
        while not self._mailbox.closed or self._call is not None:
            try:
                next_s = self._step()
            except Exception as err:  # an error of ours, not of a message or a backend: the node goes on
                self._log_error(f"worker:{type(err).__name__}", "".join(traceback.format_exception(err)))
                self._settle_all(reasons.FAILURE, str(err))
                next_s = time.monotonic() + AFTER_ERROR_S
            if self._mailbox.closed and (self._call is None or time.monotonic() >= self._give_up_s):
                break
            next_s = min(next_s, self._give_up_s)
            self._mailbox.wait(None if next_s == NEVER else max(0.0, next_s - time.monotonic()))
        if self._in_hand and self._call is not None:
            self._log_error("give-up", "what the network is at is not done in time: its frames are given up")
        self._settle_all(reasons.SHUTDOWN)
        self._inference.close()

    def _settle_all(self, reason: str, error: str = "") -> None:
        for held in list(self._in_hand.values()):
            self._settle(held, Outcome(reason=reason, error=error, kind=reason))

    def _step(self) -> float:
        """Do what can be done now; returns the steady time of what is to be done next, if nothing comes before."""
        params = self._params()
        if self._call is not None and self._call.ended_s is not None:
            self._end_call(self._call, self._call.ended_s, params)
        self._watch_call(params)
        if self._call is None:
            self._loader.close_replaced()
        self._pending = sum(name in self._in_hand or self._mailbox.head(name) is not None for name in self._cameras)
        for held in list(self._in_hand.values()):
            if time.monotonic() >= self._due_s(held.frame, params):
                self._cameras[held.frame.camera].stats.count_missed()
                self._settle(held, failopen.missed(held.decoded, params))
        # One frame of each camera at a time: a flood of one must not keep the others, or a result, waiting.
        took = [self._take_from(name, params) for name in list(self._turns)]
        next_s = min(self._start_call(params), self._next_s(params))
        return time.monotonic() if any(took) else next_s

    def _end_call(self, call: Call, ended_s: float, params: NodeParams) -> None:
        called, self._call, self._called = self._called, None, []
        self._call_s = ended_s - call.started_s
        if call.error:
            self._loader.note_failure(call.error)
        else:
            self._loader.note_working()
        for index, held in enumerate(called):
            camera, dry = self._cameras[held.frame.camera], False
            if not call.error:
                # Also of a frame that was late: the gate must not stay shut because every look takes too long.
                derained = call.results[index]
                camera.stats.note_score(derained.rain_score)
                dry = camera.gate.note_score(derained.rain_score, ended_s, params.gate)
            if self._in_hand.get(held.frame.camera) is not held:
                continue  # settled when its deadline came
            camera.stats.count_kept()
            held.parts.inference_s = ended_s - call.started_s
            if call.error:
                self._settle(held, failopen.failed(held.decoded, call.error, params))
            elif dry:
                self._settle(held, Outcome(held.decoded, reason=reasons.DRY))
            else:
                image = camera.steadier(derained.image, params.steadiness)
                steady = derained if image is derained.image else replace(derained, image=image)
                self._settle(held, Outcome(held.decoded, derained=steady))

    def _watch_call(self, params: NodeParams) -> None:
        """Leave a call behind that hangs, and have the backend started anew."""
        call = self._call
        if call is None or time.monotonic() - call.started_s < params.hang_timeout_s:
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
        camera, now_s = self._cameras[frame.camera], time.monotonic()
        return (
            frame.overtaken
            or not (params.enabled and camera.enabled)
            or not self._loader.ready_for(frame.declared_size or camera.size or (0, 0))
            or camera.gate.passes(now_s, params.gate)
            or now_s >= self._due_s(frame, params)
        )

    def _may_be_next(self, frame: Received) -> bool:
        """Whether a frame would start a batch, or may join the one that gathers."""
        if self._call is not None:
            return False
        if not self._in_hand:
            return True
        derainer, size = self._loader.derainer, next(iter(self._in_hand.values())).size
        declared = frame.declared_size or size
        return derainer is not None and declared == size and derainer.is_ready(*size, batch=len(self._in_hand) + 1)

    def _look_at(self, frame: Received, params: NodeParams) -> None:
        """Decode a frame; settle it, or have it in hand for the network."""
        began_s = time.monotonic()
        camera = self._cameras[frame.camera]
        parts = Parts(wait_s=began_s - frame.received_s)
        decoded = failopen.take_out(frame.message, self._decode)
        if isinstance(decoded, Outcome):
            self._settle_frame(frame, decoded, parts)
            return
        now_s = time.monotonic()
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
        derainer = self._loader.derainer
        group = [self._in_hand[name] for name in self._turns if name in self._in_hand]
        if not group or derainer is None:
            return NEVER
        first = group[0]
        group = [held for held in group if held.size == first.size]
        now_s = time.monotonic()
        wait_until_s = min(held.frame.received_s for held in group) + params.batch_wait_ms / 1000
        # A frame with a deadline does not wait for others when it is in a hurry.
        wait_until_s = min(wait_until_s, *(self._due_s(held.frame, params) - self._call_s for held in group))
        others = [camera for name, camera in self._cameras.items() if name not in self._in_hand]
        if (
            now_s < wait_until_s
            and any(self._may_come(camera, first.size, wait_until_s, now_s, params) for camera in others)
            and derainer.is_ready(*first.size, batch=len(group) + 1)
        ):
            return wait_until_s
        if len(group) > 1 and not derainer.is_ready(*first.size, batch=len(group)):
            group = [first]
        for held in group:
            held.parts.wait_s = now_s - held.frame.received_s - held.parts.preprocess_s
            self._cameras[held.frame.camera].gate.note_look(now_s)
            self._turns.remove(held.frame.camera)
            self._turns.append(held.frame.camera)
        self._called = group
        self._call = Call(derainer, [held.decoded.bgr for held in group])
        self._inference.start(self._call)
        return NEVER

    def _may_come(
        self, camera: Camera, size: tuple[int, int], until_s: float, now_s: float, params: NodeParams
    ) -> bool:
        """Whether a camera that is to be derained is likely to send a frame of this size before ``until_s``."""
        return (
            camera.size == size
            and camera.enabled
            and camera.stats.silent_s(now_s) < LIVE_S
            and camera.stats.expected_s < until_s
            and not camera.gate.passes(now_s, params.gate)
        )

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
        parts.total_s = time.monotonic() - frame.received_s
        if outcome.derained is None:
            camera.stats.count_passed_through(outcome.reason, outcome.error, parts)
        else:
            camera.stats.count_derained(parts)
