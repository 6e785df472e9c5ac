from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sapnet.backends import BackendSpec, create_backend
from sapnet.errors import BackendError

FRAMES = np.arange(2 * 16 * 17 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 16, 17, 3)


def fake(**options):
    return create_backend("fake", BackendSpec(fake=options))


def test_returns_a_copy_without_streaks():
    given = FRAMES.copy()
    derained, streaks = fake().infer(given)
    given[:] = 0
    assert np.array_equal(derained, FRAMES)
    assert streaks.shape == (2, 16, 17)
    assert streaks.dtype == np.uint8
    assert not streaks.any()


def test_describes_itself():
    backend = fake()
    assert (backend.name, backend.precision, backend.stages) == ("fake", "fp32", 4)
    assert backend.device


def test_takes_the_stages_that_were_asked_for():
    assert create_backend("fake", BackendSpec(weights="no/such/file", stages=3)).stages == 3


def test_is_ready_at_once():
    backend = fake()
    backend.prepare(1, 16, 16)
    assert backend.is_ready(9, 2000, 3000)


def test_latency():
    backend = fake(latency_ms=30)
    started = time.monotonic()
    backend.infer(FRAMES)
    assert time.monotonic() - started >= 0.03


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


def test_nan_gives_floats():
    derained, _ = fake(mode="nan").infer(FRAMES)
    assert np.isnan(derained).all()


def test_wrong_shape_lacks_a_column():
    derained, streaks = fake(mode="wrong_shape").infer(FRAMES)
    assert derained.shape == (2, 16, 16, 3)
    assert streaks.shape == (2, 16, 16)


def test_out_of_memory_is_chained():
    with pytest.raises(BackendError, match="out of memory") as caught:
        fake(mode="oom").infer(FRAMES)
    assert isinstance(caught.value.__cause__, MemoryError)


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


def test_is_of_no_use_once_closed():
    backend = fake()
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.infer(FRAMES)
    with pytest.raises(BackendError, match="closed"):
        backend.prepare(1, 16, 16)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"speed": 1}, "'speed'.*latency_ms, fail_every, mode"),
        ({"latency_ms": -1}, "-1"),
        ({"latency_ms": float("nan")}, "nan"),
        ({"latency_ms": float("inf")}, "inf"),
        ({"latency_ms": "5"}, "'5'"),
        ({"latency_ms": True}, "True"),
        ({"fail_every": -2}, "-2"),
        ({"fail_every": 1.5}, "1.5"),
        ({"mode": "explode"}, "'explode'.*identity"),
    ],
)
def test_refuses_wrong_options(options, said):
    with pytest.raises(BackendError, match=said):
        fake(**options)


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
