"""The way to BGR for encodings that sapnet does not read itself: cv_bridge, where it is installed and works."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapnet.errors import ImageFormatError
from sapnet.messages import IMAGE_ENCODINGS, Fallback

TRIAL_TIMEOUT_S = 60.0

# Goes through both compiled functions that a conversion needs.
_TRIAL = """
import numpy
from cv_bridge import CvBridge
bridge = CvBridge()
bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(numpy.zeros((2, 2, 3), numpy.uint8), "rgb8"), "bgr8")
"""


def cv_bridge_fallback() -> Fallback:
    """What ``decode_image`` turns to for an encoding it does not know; raises ImageFormatError where it can't help.

    cv_bridge is looked for when the first such message comes, which then waits for a trial in a process of its own:
    beside a NumPy that it was not built for, cv_bridge's compiled part can take the whole process down.
    """
    open_once = functools.cache(_open_bridge)

    def convert(msg: Any) -> NDArray[np.uint8]:
        bridge, trouble = open_once()
        if trouble:
            raise _refused(msg.encoding, trouble)
        try:
            bridge.encoding_to_cvtype2(msg.encoding)
            if len(msg.data) == msg.step * msg.height:
                bgr: NDArray[np.uint8] = bridge.imgmsg_to_cv2(msg, desired_encoding="bgr8")
                return bgr
        except Exception as err:  # cv_bridge lets errors of NumPy, OpenCV and its own through
            raise _refused(msg.encoding, f"cv_bridge cannot convert it to bgr8: {err}") from err
        raise ImageFormatError(
            f"data has {len(msg.data)} bytes; height {msg.height} and step {msg.step} make {msg.step * msg.height}",
            kind="data",
        )

    return convert


def _open_bridge() -> tuple[Any, str]:
    """A CvBridge, or what keeps it from working."""
    if importlib.util.find_spec("cv_bridge") is None:
        return None, "cv_bridge, which may know it, is not installed (ros-$ROS_DISTRO-cv-bridge)"
    trouble = _try_bridge()
    if trouble:
        return None, f"cv_bridge, which may know it, does not work beside NumPy {np.__version__} ({trouble})"
    return importlib.import_module("cv_bridge").CvBridge(), ""


def _try_bridge() -> str:
    """Empty when a conversion succeeds in a process of its own, else why not."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _TRIAL]
    try:
        trial = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {TRIAL_TIMEOUT_S:.0f} s"
    if trial.returncode < 0:
        return f"it ended with signal {-trial.returncode}"
    return (trial.stderr.strip().splitlines() or ["it failed"])[-1] if trial.returncode else ""


def _refused(encoding: str, why: str) -> ImageFormatError:
    return ImageFormatError(
        f"encoding {encoding!r} is not supported: {why}; supported without it are {', '.join(IMAGE_ENCODINGS)}",
        kind="encoding",
    )
