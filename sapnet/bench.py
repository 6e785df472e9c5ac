"""Times backends and weights side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from sapnet.backends import BuildStatus
from sapnet.derainer import Derainer

_WARM_UP = 2
_SEED = 0


@dataclass(frozen=True)
class Candidate:
    """One combination to be timed; ``auto`` and 0 as in BackendSpec."""

    weights: str
    backend: str
    precision: str = "auto"
    device: str = "auto"
    stages: int = 0


@dataclass(frozen=True)
class Timing:
    """One combination as it ran.

    p50_ms, p95_ms: of a call with a whole batch. fps: frames per second at p50. ratio: how many times as fast
    as the first combination, by p50.
    """

    weights: str
    backend: str
    precision: str
    device: str
    stages: int
    p50_ms: float
    p95_ms: float
    fps: float
    ratio: float


def measure(
    candidates: Sequence[Candidate],
    height: int,
    width: int,
    batch: int = 1,
    frames: int = 20,
    on_step: Callable[[], None] = lambda: None,
    on_build: Callable[[BuildStatus], None] = lambda status: None,
) -> list[Timing]:
    """Time ``frames`` calls of every candidate, each with ``batch`` frames of noise, in the candidates' order.

    The candidates take turns call by call, so that what else the machine does slows all of them alike.
    on_step: called ``steps(...)`` times as the work goes on. on_build: as in BackendSpec. Raises SapnetError.
    """
    noise = list(np.random.default_rng(_SEED).integers(0, 256, (batch, height, width, 3), np.uint8))
    with ExitStack() as stack:
        derainers = [stack.enter_context(_make(candidate, on_build)) for candidate in candidates]
        for derainer in derainers:
            derainer.prepare(height, width, batch)
            for _ in range(_WARM_UP):
                derainer(noise)
            on_step()
        seconds = np.empty((frames, len(derainers)))
        for turn in range(frames):
            for index, derainer in enumerate(derainers):
                started = time.perf_counter()
                derainer(noise)
                seconds[turn, index] = time.perf_counter() - started
                on_step()
    p50, p95 = np.percentile(seconds * 1000.0, (50, 95), axis=0)
    return [
        Timing(
            weights=derainer.weights,
            backend=derainer.backend_name,
            precision=derainer.precision,
            device=derainer.device,
            stages=derainer.stages,
            p50_ms=round(float(p50[index]), 3),
            p95_ms=round(float(p95[index]), 3),
            fps=round(float(batch * 1000.0 / p50[index]), 2),
            ratio=round(float(p50[0] / p50[index]), 3),
        )
        for index, derainer in enumerate(derainers)
    ]


def steps(candidates: int, frames: int) -> int:
    """How often ``measure`` calls ``on_step``."""
    return candidates * (1 + frames)


def _make(candidate: Candidate, on_build: Callable[[BuildStatus], None]) -> Derainer:
    return Derainer(
        weights=candidate.weights,
        backend=candidate.backend,
        device=candidate.device,
        precision=candidate.precision,
        stages=candidate.stages,
        on_build=on_build,
    )
