"""The filter over time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from picture_builders import flat
from sapnet.steadiness import NEAR, Steadier

FRAMES = arrays(np.uint8, (3, 4, 5, 3))


@given(FRAMES, st.just(0.0) | st.floats(0, 0.9))
def test_it_blends_what_differs_little_and_leaves_the_rest(frames: np.ndarray, share: float) -> None:
    steadier, before = Steadier(), None
    for frame in frames:
        given = frame.copy()
        steady = steadier(frame, share)
        assert np.array_equal(frame, given)
        assert share or steady is frame
        if before is not None:
            near = np.abs(frame.astype(int) - before).max(axis=2) <= NEAR
            blended = frame * (1 - share) + before * share
            assert np.array_equal(steady[~near], frame[~near])
            assert np.abs(steady[near] - blended[near]).max(initial=0) <= 0.51
        before = steady


@pytest.mark.parametrize("gap", [lambda steadier: steadier.forget(), lambda steadier: steadier(flat(100, 6, 5), 0.5)])
def test_it_begins_anew_after_a_gap_and_for_another_size(gap) -> None:
    steadier = Steadier()
    steadier(flat(100, 4, 5), 0.5)
    gap(steadier)
    assert steadier(flat(110, 4, 5), 0.5)[0, 0, 0] == 110
