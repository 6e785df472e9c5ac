"""Derained or original, and why: what goes out for one received frame."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sapnet.derainer import Derained
from sapnet.errors import ImageFormatError, SapnetError
from sapnet.image import MIN_SIDE
from sapnet.messages import Decoded, decode_compressed, decode_image
from sapnet_ros.cv_bridge_fallback import cv_bridge_fallback
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Received
from sapnet_ros.params import NodeParams

# The reasons of frame_status and diagnostics; the values are part of the public contract.
BUILDING, DISABLED, FAILURE, OVERLOAD = "building", "disabled", "failure", "overload"
INVALID, UNSUPPORTED, SHUTDOWN = "invalid", "unsupported", "shutdown"


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


def make_decoder(params: NodeParams) -> Callable[[Any], Decoded]:
    """What takes the frame out of a message of the transport that is subscribed to."""
    if params.image_transport == "compressed":
        return functools.partial(decode_compressed, max_pixels=params.max_pixels)
    return functools.partial(decode_image, max_pixels=params.max_pixels, fallback=cv_bridge_fallback())


def decide(
    frame: Received,
    decode: Callable[[Any], Decoded],
    loader: Loader,
    params: NodeParams,
    enabled: bool,
) -> Outcome:
    """Decode and derain a frame. Never raises for what a message or a backend can do wrong."""
    try:
        decoded = decode(frame.message)
    except ImageFormatError as err:
        return Outcome(reason=UNSUPPORTED if err.kind == "encoding" else INVALID, error=str(err), kind=err.kind)
    height, width = decoded.bgr.shape[:2]
    size = (height, width)
    too_small = min(size) < MIN_SIDE
    if not too_small:
        loader.request(size)
    if frame.overtaken:
        return Outcome(decoded, reason=OVERLOAD)
    if not enabled:
        return Outcome(decoded, reason=DISABLED)
    if too_small:
        return _failed(decoded, f"the frame is {height}x{width}; {MIN_SIDE}x{MIN_SIDE} is the least", params)
    derainer = loader.derainer
    if derainer is None or not derainer.is_ready(*size):
        error = loader.error_for(size)
        return _failed(decoded, error, params) if error else Outcome(decoded, reason=BUILDING)
    try:
        return Outcome(decoded, derained=derainer([decoded.bgr])[0])
    except SapnetError as err:
        return _failed(decoded, str(err), params)
    except Exception as err:  # a backend's library may raise anything, and no frame may kill the node
        return _failed(decoded, f"{type(err).__name__}: {err}", params)


def _failed(decoded: Decoded, error: str, params: NodeParams) -> Outcome:
    kept = decoded if params.on_failure == "passthrough" else None
    return Outcome(kept, reason=FAILURE, error=error, kind="failure")
