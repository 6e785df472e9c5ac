"""Frames, and the decision on each: derained, passed through or dropped, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sapnet.derainer import Derained
from sapnet.errors import ImageFormatError
from sapnet.images.frame import MIN_SIDE
from sapnet.images.messages import Decoded, image_size
from sapnet_ros.loader import Loader
from sapnet_ros.params import NodeParams

# Part of the public contract.
BUILDING, DISABLED, DRY = "building", "disabled", "dry"
DEADLINE, FAILURE, OVERLOAD = "deadline", "failure", "overload"
INVALID, UNSUPPORTED, SHUTDOWN, UNWATCHED = "invalid", "unsupported", "shutdown", "unwatched"


@dataclass(frozen=True)
class Fate:
    """Why a frame is not derained; all fields are empty for one that is.

    dropped: publish nothing; otherwise the original. error: for log and diagnostics. kind: groups errors in the log.
    """

    reason: str = ""
    dropped: bool = False
    error: str = ""
    kind: str = ""


@dataclass
class Parts:
    """Parts of a frame's latency, in seconds.

    wait: in the queue, and for the network. preprocess: decoding the message. inference: the call of the
    network, for all frames of its batch. postprocess: making the messages. publish: handing them to the middleware.
    latency: from receipt to the last publish.
    """

    wait_s: float = 0.0
    preprocess_s: float = 0.0
    inference_s: float = 0.0
    postprocess_s: float = 0.0
    publish_s: float = 0.0
    latency_s: float = 0.0


@dataclass(eq=False)
class Received:
    """A message of a camera, until it is published or dropped; ``received_s`` is steady time.

    overtaken: a newer frame came before this one's turn, and it is to pass through.
    size: height, width as the image's header says, once it was read. decoded: its pixels, once it was decoded.
    fate: once it is settled, with derained where it is published as such. until_s: how long it may wait for its
    camera_info then, steady time.
    """

    camera: str
    message: Any
    received_s: float
    overtaken: bool = False
    size: tuple[int, int] | None = None
    decoded: Decoded | None = None
    fate: Fate | None = None
    derained: Derained | None = None
    until_s: float = 0.0
    parts: Parts = field(default_factory=Parts)


class RainGate:
    """Decides whether it rains in front of a camera; in dry weather only an occasional frame goes to the network.

    It starts with rain. Times are steady.
    """

    def __init__(self) -> None:
        self._dry = False
        self._low_since_s: float | None = None  # since when every score was below off_threshold
        self._probed_s = 0.0

    def state(self, params: NodeParams) -> str:
        """``off``, ``dry`` or ``rain``."""
        if not params.rain_gate_enabled:
            return "off"
        return "dry" if self._dry else "rain"

    def passes(self, now_s: float, params: NodeParams) -> bool:
        """Whether a frame passes through without a run of the network."""
        return params.rain_gate_enabled and self._dry and now_s - self._probed_s < params.rain_gate_probe_period_s

    def note_look(self, now_s: float) -> None:
        """Note that a frame goes to the network."""
        self._probed_s = now_s

    def note_score(self, score: float, now_s: float, params: NodeParams) -> bool:
        """Note the rain score of a frame; returns whether that frame, too, passes through as dry."""
        if not params.rain_gate_enabled:
            self._dry, self._low_since_s = False, None
        elif self._dry:
            if score >= params.rain_gate_on_threshold:
                self._dry, self._low_since_s = False, None
        elif score >= params.rain_gate_off_threshold:
            self._low_since_s = None
        else:
            self._low_since_s = now_s if self._low_since_s is None else self._low_since_s
            self._dry = now_s - self._low_since_s >= params.rain_gate_hold_s
        return self._dry


def decide(frame: Received, camera: Any, loader: Loader, params: NodeParams, now_s: float, due_s: float) -> Fate | None:
    """Decide on a frame by its header, before it is decoded; None: derain it.

    camera: the Camera that sent it. due_s: when the original must be sent to meet the deadline. Times are steady.
    """
    if frame.size is None:
        try:
            frame.size = image_size(frame.message, params.image_transport == "compressed", params.max_pixels)
        except ImageFormatError as err:
            return unreadable(err)
    if params.lazy and not camera.watched:
        return Fate(UNWATCHED, dropped=True)
    if frame.overtaken:
        return Fate(OVERLOAD)
    if not (params.enabled and camera.enabled):
        return Fate(DISABLED)
    if min(frame.size) < MIN_SIDE:
        height, width = frame.size
        return failed(f"the frame is {height}x{width}, the smallest allowed is {MIN_SIDE}x{MIN_SIDE}", params)
    if not loader.ready_for(frame.size):
        error = loader.error_for(frame.size)
        return failed(error, params) if error else Fate(BUILDING)
    if camera.gate.passes(now_s, params):
        return Fate(DRY)
    return missed(params) if now_s >= due_s else None


def unreadable(err: ImageFormatError) -> Fate:
    """For a message that cannot be decoded."""
    return Fate(UNSUPPORTED if err.kind == "encoding" else INVALID, dropped=True, error=str(err), kind=err.kind)


def failed(error: str, params: NodeParams) -> Fate:
    """For a frame that cannot be derained."""
    return Fate(FAILURE, dropped=params.on_failure == "drop", error=error, kind=FAILURE)


def missed(params: NodeParams) -> Fate:
    """For a frame whose deadline comes before its result. Not an error: a few are expected."""
    dropped = params.on_failure == "drop"
    return Fate(FAILURE if dropped else DEADLINE, dropped, kind=DEADLINE)
