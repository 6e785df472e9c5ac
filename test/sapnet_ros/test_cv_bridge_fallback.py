"""The way through cv_bridge, with packages of that name that work, fail and crash."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from sapnet.errors import ImageFormatError
from sapnet.images.messages import decode_image
from sapnet_ros import cv_bridge_fallback as module
from sapnet_ros.cv_bridge_fallback import cv_bridge_fallback

WORKING = """
import numpy as np

class CvBridge:
    def encoding_to_cvtype2(self, encoding):
        if encoding not in ("rgba16", "16UC1", "narrow"):
            raise RuntimeError(f"Unrecognized image encoding [{encoding}]")

    def cv2_to_imgmsg(self, image, encoding):
        return image

    def imgmsg_to_cv2(self, msg, desired_encoding):
        if getattr(msg, "encoding", "") == "16UC1":
            raise RuntimeError("[16UC1] is not a color format")
        if getattr(msg, "encoding", "") == "narrow":
            return np.zeros((msg.height, 1, 3), np.uint8)
        assert desired_encoding == "bgr8"
        return msg if isinstance(msg, np.ndarray) else np.full((msg.height, msg.width, 3), 7, np.uint8)
"""
UNLIKE_ITS_TRIAL = WORKING.replace("return image", "raise ImportError('numpy.core.multiarray failed to import')")


def rgba16(encoding="rgba16", data=bytes(6 * 8 * 8)):
    return SimpleNamespace(height=6, width=8, encoding=encoding, is_bigendian=0, step=64, data=data)


def tried():
    """A fallback whose trial of cv_bridge is over."""
    threads = []
    fallback = cv_bridge_fallback(threads.append)
    with contextlib.suppress(ImageFormatError):
        fallback(rgba16())
    for thread in threads:
        thread.join(60)
    return fallback


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package cv_bridge of the given source where it is imported from, for this process and its children."""

    def write(source):
        folder = tmp_path / "cv_bridge"
        folder.mkdir()
        (folder / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    yield write
    sys.modules.pop("cv_bridge", None)


def test_a_working_cv_bridge_converts(install):
    install(WORKING)
    decoded = decode_image(rgba16(), fallback=tried())
    assert decoded.encoding == "rgba16"
    np.testing.assert_array_equal(decoded.bgr, np.full((6, 8, 3), 7, np.uint8))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("raise ImportError('numpy.core.multiarray failed to import')", "ImportError: numpy.core.multiarray failed"),
        ("import os; os.abort()", "ended with signal 6"),
        (UNLIKE_ITS_TRIAL, "numpy.core.multiarray failed to import"),
    ],
)
def test_a_broken_cv_bridge_is_never_imported_here(install, source, text):
    install(source)
    with pytest.raises(ImageFormatError, match=text) as error:
        decode_image(rgba16(), fallback=tried())
    assert error.value.kind == "encoding"
    assert f"does not work beside NumPy {np.__version__}" in str(error.value)
    assert "bgr8" in str(error.value)  # what works without it
    assert "cv_bridge" not in sys.modules


def test_one_that_hangs_is_given_up(install, monkeypatch):
    install("import time; time.sleep(60)")
    monkeypatch.setattr(module, "TRIAL_TIMEOUT_S", 0.2)
    with pytest.raises(ImageFormatError, match="did not answer within"):
        decode_image(rgba16(), fallback=tried())


def test_a_missing_cv_bridge_is_said_to_be_missing(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cv_bridge" else found(name))
    with pytest.raises(ImageFormatError, match="cv_bridge, which may know it, is not installed") as error:
        decode_image(rgba16(), fallback=tried())
    assert error.value.kind == "encoding"


def test_nobody_waits_for_the_trial(install, monkeypatch):
    install(WORKING)
    go, threads = threading.Event(), []
    monkeypatch.setattr(module, "_try_bridge", lambda: "" if go.wait(60) else "late")
    fallback = cv_bridge_fallback(threads.append)
    try:
        for _ in range(3):
            with pytest.raises(ImageFormatError, match=r"'rgba16' is not .*: cv_bridge, .* is being tried") as error:
                fallback(rgba16())
            assert error.value.kind == "encoding"
        assert len(threads) == 1
    finally:
        go.set()
    threads[0].join(60)
    assert decode_image(rgba16(), fallback=fallback).encoding == "rgba16"


@pytest.mark.parametrize(
    ("msg", "kind", "text"),
    [
        (rgba16("nonsense"), "encoding", "Unrecognized image encoding"),
        (rgba16("16UC1"), "encoding", "not a color format"),
        (rgba16(data=bytes(383)), "data", "data has 383 bytes; height 6 and step 64 make 384"),
    ],
)
def test_what_it_cannot_convert_is_refused(install, msg, kind, text):
    install(WORKING)
    with pytest.raises(ImageFormatError, match=text) as error:
        decode_image(msg, fallback=tried())
    assert error.value.kind == kind
