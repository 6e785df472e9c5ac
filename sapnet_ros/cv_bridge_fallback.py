"""Converts encodings that sapnet does not read itself with cv_bridge, where that is installed and works."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.errors import ImageFormatError, first_line
from sapnet.images.messages import IMAGE_ENCODINGS, Fallback, quoted

TRIAL_TIMEOUT_S = 60.0
MAX_SAID = 200  # characters of what cv_bridge says, which repeats what the message does

# Goes through both compiled functions that a conversion needs. The alarm ends it where the node has ended before it.
_TRIAL = """
import signal, sys
signal.alarm(int(sys.argv[1]))
import numpy
from cv_bridge import CvBridge
bridge = CvBridge()
bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(numpy.zeros((2, 2, 3), numpy.uint8), "rgb8"), "bgr8")
"""


def cv_bridge_fallback(keep_thread: Callable[[Thread], None] = lambda thread: None) -> Fallback:
    """What ``decode_image`` turns to for an encoding it does not know; raises ImageFormatError where it can't help.

    cv_bridge is looked for when the first such message comes, and has a trial in a process of its own: beside a NumPy
    that it was not built for, its compiled part can take the whole process down. Until that is over, on a thread that
    ``keep_thread`` gets, such messages are refused: nobody waits.
    """
    opening = functools.cache(lambda: _start_opening(keep_thread))

    def convert(msg: Any) -> NDArray[np.uint8]:
        if not opening().done():
            raise _refused(msg.encoding, "cv_bridge, which may know it, is being tried")
        bridge, trouble = opening().result()
        if trouble:
            raise _refused(msg.encoding, trouble)
        try:
            bridge.encoding_to_cvtype2(msg.encoding)
            if len(msg.data) == msg.step * msg.height:
                bgr: NDArray[np.uint8] = bridge.imgmsg_to_cv2(msg, desired_encoding="bgr8")
                return bgr
        except (RuntimeError, TypeError, ValueError, cv2.error) as err:  # its own, NumPy's and OpenCV's
            said = str(err)[:MAX_SAID]
            raise _refused(msg.encoding, f"cv_bridge cannot convert it to bgr8: {said}") from err
        raise ImageFormatError(
            f"data has {len(msg.data)} bytes; height {msg.height} and step {msg.step} make {msg.step * msg.height}",
            kind="data",
        )

    return convert


def _start_opening(keep_thread: Callable[[Thread], None]) -> Future[tuple[Any, str]]:
    """A CvBridge that comes, or what keeps it from working."""
    opening: Future[tuple[Any, str]] = Future()
    if not _is_installed():
        opening.set_result((None, "cv_bridge, which may know it, is not installed (ros-$ROS_DISTRO-cv-bridge)"))
        return opening
    thread = Thread(target=lambda: opening.set_result(_open_bridge()), name="cv_bridge", daemon=True)
    keep_thread(thread)
    thread.start()
    return opening


def _is_installed() -> bool:
    return importlib.util.find_spec("cv_bridge") is not None


def _open_bridge() -> tuple[Any, str]:
    try:
        trouble = _try_bridge()
        if not trouble:
            return importlib.import_module("cv_bridge").CvBridge(), ""
    except (ImportError, AttributeError, OSError) as err:
        trouble = f"{type(err).__name__}: {first_line(err)}"
    return None, f"cv_bridge, which may know it, does not work beside NumPy {np.__version__} ({trouble[:MAX_SAID]})"


def _try_bridge() -> str:
    """Empty when a conversion succeeds in a process of its own, else why not."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _TRIAL, str(math.ceil(TRIAL_TIMEOUT_S) + 1)]
    try:
        trial = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {TRIAL_TIMEOUT_S:.0f} s"
    if trial.returncode < 0:
        return f"it ended with signal {-trial.returncode}"
    return (trial.stderr.strip().splitlines() or ["it failed"])[-1] if trial.returncode else ""


def _refused(encoding: str, why: str) -> ImageFormatError:
    return ImageFormatError(
        f"encoding {quoted(encoding)} is not supported: {why}; supported without it are {', '.join(IMAGE_ENCODINGS)}",
        kind="encoding",
    )
