from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from sapnet.backends import BackendSpec, create_backend
from sapnet.errors import BackendError

FRAMES = np.arange(2 * 16 * 17 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 16, 17, 3)


def fake(**options):
    return create_backend("fake", BackendSpec(fake=options))


def test_fails_every_so_many_times():
    backend = fake(fail_every=3)
    outcomes = []
    for _ in range(7):
        try:
            backend.infer(FRAMES)
            outcomes.append("ok")
        except BackendError:
            outcomes.append("failed")
    assert outcomes == ["ok", "ok", "failed", "ok", "ok", "failed", "ok"]


@pytest.mark.parametrize("options", [{"mode": "hang"}, {"latency_ms": 3_600_000}])
def test_close_ends_an_inference_that_hangs(options):
    backend = fake(**options)
    errors = []

    def infer():
        with pytest.raises(BackendError, match="closed") as caught:
            backend.infer(FRAMES)
        errors.append(caught.value)

    thread = threading.Thread(target=infer, daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    backend.close()
    thread.join(30)
    assert len(errors) == 1


def test_needs_no_torch():
    code = """
import sys, numpy
from sapnet import Derainer
with Derainer(backend="fake") as derainer:
    derainer([numpy.zeros((16, 16, 3), numpy.uint8)])
print(sorted({"torch", "openvino"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
