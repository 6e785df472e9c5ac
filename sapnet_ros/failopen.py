"""Derained or original, and why: what goes out for one received frame."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any

from sapnet.derainer import Derained
from sapnet.errors import ImageFormatError
from sapnet.images.frame import MIN_SIDE
from sapnet.images.messages import Decoded, decode_compressed, decode_image
from sapnet_ros.cv_bridge_fallback import cv_bridge_fallback
from sapnet_ros.loader import Loader
from sapnet_ros.params import NodeParams
from sapnet_ros.reasons import BUILDING, DEADLINE, DISABLED, FAILURE, INVALID, OVERLOAD, UNSUPPORTED

Decode = Callable[[Any], Decoded]
"""Takes the frame out of a message, or raises ImageFormatError."""


@dataclass(frozen=True)
class Outcome:
    """What goes out: ``derained``, else the original in ``decoded``, else nothing; ``reason`` says why not derained.

    error: text for the log and the diagnostics, ``kind`` groups errors of one sort.
    """

    decoded: Decoded | None = None
    derained: Derained | None = None
    reason: str = ""
    error: str = ""
    kind: str = ""


def make_decoder(params: NodeParams, keep_thread: Callable[[Thread], None]) -> Decode:
    """For messages of the transport that is subscribed to. keep_thread: gets a thread that may be made for it."""
    if params.image_transport == "compressed":
        return functools.partial(decode_compressed, max_pixels=params.max_pixels)
    return functools.partial(decode_image, max_pixels=params.max_pixels, fallback=cv_bridge_fallback(keep_thread))


def take_out(message: Any, decode: Decode) -> Decoded | Outcome:
    """The frame in a message, or what becomes of a message that holds none. Raises nothing."""
    try:
        return decode(message)
    except ImageFormatError as err:
        reason = UNSUPPORTED if err.kind == "encoding" else INVALID
        return Outcome(reason=reason, error=str(err), kind=err.kind)
    except Exception as err:  # of ours; the frame is lost, not the node
        return Outcome(reason=FAILURE, error=f"{type(err).__name__}: {err}", kind=type(err).__name__)


def settled_at_sight(
    decoded: Decoded, overtaken: bool, enabled: bool, loader: Loader, params: NodeParams
) -> Outcome | None:
    """What becomes of a frame that needs no network, or cannot have it now; None for one that is to be derained."""
    if overtaken:
        return Outcome(decoded, reason=OVERLOAD)
    if not enabled:
        return Outcome(decoded, reason=DISABLED)
    return not_ready(decoded, loader, params)


def not_ready(decoded: Decoded, loader: Loader, params: NodeParams) -> Outcome | None:
    """What becomes of a frame that the network cannot take now; None for one that it can."""
    height, width = decoded.bgr.shape[:2]
    if min(height, width) < MIN_SIDE:
        return failed(decoded, f"the frame is {height}x{width}; {MIN_SIDE}x{MIN_SIDE} is the least", params)
    if loader.ready_for((height, width)):
        return None
    error = loader.error_for((height, width))
    return failed(decoded, error, params) if error else Outcome(decoded, reason=BUILDING)


def failed(decoded: Decoded, error: str, params: NodeParams) -> Outcome:
    """What becomes of a frame that cannot be derained."""
    kept = decoded if params.on_failure == "passthrough" else None
    return Outcome(kept, reason=FAILURE, error=error, kind=FAILURE)


def missed(decoded: Decoded, params: NodeParams) -> Outcome:
    """What becomes of a frame whose deadline comes before its result; no error, for a few are to be expected."""
    if params.on_failure == "passthrough":
        return Outcome(decoded, reason=DEADLINE)
    return Outcome(None, reason=FAILURE)
