"""Loads and compiles the network in the background, so that no callback and no transition waits for it."""

from __future__ import annotations

import functools
import logging
import math
import operator
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Condition, Thread
from typing import TYPE_CHECKING

import numpy as np

from sapnet.errors import SapnetError, describe
from sapnet.images.frame import MIN_SIDE
from sapnet_ros.params import NodeParams, Size

if TYPE_CHECKING:
    from sapnet.backends import BuildStatus
    from sapnet.derainer import Derainer

# Backends report the progress of a build twice a second: one that is silent for longer has ended.
BUILD_SILENCE_S = 3.0
CLOSE_TIMEOUT_S = 2.0
# A backend that hangs is restarted with exponential back-off, up to MAX_RESTARTS times.
FIRST_PAUSE_S = 1.0
MAX_RESTARTS = 5
# The count starts over after this long without a hang ...
FORGIVEN_AFTER_S = 60.0
# ... but every call that never returns keeps a thread and a network in memory.
MAX_LEFT_BEHIND = 5
# A rate counts as held if the network takes at most this share of the time.
BUSY_SHARE = 0.8
MEASURED_CALLS = 3
# Between two looks at whether an engine that is to be measured is ready.
REVIEW_POLL_S = 1.0

# What loading, compiling or running a network raises: our own errors, RuntimeError of torch, OpenVINO and TensorRT, and
# what a library that cannot be loaded, a full disk or too little memory lead to.
FAILURES = (SapnetError, RuntimeError, ImportError, OSError, MemoryError)

log = logging.getLogger("sapnet")


class Restarts:
    """Plans the restarts of one backend. clock: steady seconds.

    loaded_s: when the network was last loaded. left_behind: threads in which a call hangs.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.count = 0
        self.in_a_row = 0
        self._clock = clock
        self._not_before_s = -math.inf
        self.loaded_s = math.inf
        self.left_behind: list[Thread] = []

    @property
    def pause_s(self) -> float:
        """Seconds to wait before loading."""
        return max(0.0, self._not_before_s - self._clock())

    def plan(self, error: str, began_s: float) -> tuple[bool, str]:
        """Whether to reload after ``error``, and the text to report. began_s: when the call or load that failed began.

        A call may hang for longer than what counts as a good while: that while ends where the call begins.
        """
        if began_s - self.loaded_s > FORGIVEN_AFTER_S:
            self.in_a_row = 0
        self.loaded_s = math.inf
        self.left_behind = [thread for thread in self.left_behind if thread.is_alive()]
        why_not = ""
        if self.in_a_row == MAX_RESTARTS:
            why_not = f"after {MAX_RESTARTS} restarts"
        elif len(self.left_behind) >= MAX_LEFT_BEHIND:
            why_not = f"{len(self.left_behind)} calls have never returned"
        if why_not:
            return False, f"{error}, {why_not}: given up; clean up and configure to try again"
        delay_s = FIRST_PAUSE_S * 2**self.in_a_row
        self._not_before_s = self._clock() + delay_s
        self.in_a_row += 1
        self.count += 1
        return True, f"{error}; restarting it in {delay_s:g} s (try {self.in_a_row} of {MAX_RESTARTS})"


class StageChoice:
    """Chooses the number of stages that holds a frame rate with 20 % to spare; all of them without a rate.

    most: upper limit; 0: the preset's. hz: frames per second of all cameras together; 0: no rate.
    """

    def __init__(self, most: int, hz: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stages = most
        self.hz = hz
        self.said = ""  # the choice, for people; empty without a rate
        self._most = most
        self._clock = clock

    def review(self, derainer: Derainer, size: Size, may_rise: bool) -> None:
        """Measure calls on frames of a size, and choose anew."""
        self._most = self._most or derainer.stages
        frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        times_s = [self._clock()]
        for _ in range(MEASURED_CALLS):
            derainer([frame])
            times_s.append(self._clock())
        call_s, budget_s = statistics.median(map(operator.sub, times_s[1:], times_s)), BUSY_SHARE / self.hz
        held = call_s <= budget_s
        what = f"{derainer.stages} of {self._most} stages take {1e3 * call_s:.1f} ms at {size[0]}x{size[1]}"
        self.said = f"{what}: they {'hold' if held else 'do not hold'} {self.hz:g} frames a second"
        log.info(self.said)
        # All stages take about the same time, but for a coarse network: with one, the next review corrects the choice.
        fitting = min(self._most, max(1, int(derainer.stages * budget_s / call_s)))
        if fitting != derainer.stages and (may_rise or not held):
            self.stages = fitting


class Loader:
    """Owns the Derainer: loads it, and compiles it for every requested size, on its own thread.

    load: makes a Derainer for a number of stages, which keeps ``max_sizes`` sizes compiled; may take seconds.
    choice: chooses the number of stages.
    max_sizes: size of the LRU cache of frame sizes.
    on_change: called, from any thread, whenever ``ready`` may have changed.
    clock: steady seconds.
    """

    def __init__(
        self,
        load: Callable[[int], Derainer],
        choice: StageChoice,
        sizes: Iterable[Size],
        max_sizes: int,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.choice = choice
        self.derainer: Derainer | None = None  # once loaded
        self.last_error: tuple[str, float] | None = None  # the text and the steady time
        self._load = load
        self._to_review: tuple[Size, bool] | None = None  # a size to measure, and whether the stages may rise
        self._on_change = on_change
        self._clock = clock
        self._changed = Condition()
        self._closed = False
        self._loaded_stages: int | None = None
        self._error = ""
        self._sizes: OrderedDict[Size, None] = OrderedDict.fromkeys(sizes)
        self._max_sizes = max_sizes
        self._failed: dict[Size, str] = {}
        self._doing = "loading the network"  # for display; empty while nothing is loaded or compiled
        self._build: BuildStatus | None = None
        self._news_s = clock()  # when what is being done began, or a build last reported progress
        self.restarts = Restarts(clock)
        self._replaced: list[Derainer] = []  # a call may still be in them
        self.review_stages(may_rise=True)
        Thread(target=self._run, name="loader", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether at least one size is known, and frames of every known size would be derained at once."""
        with self._changed:
            return bool(self._sizes) and all(map(self.ready_for, self._sizes))

    @property
    def error(self) -> str:
        """Why no frames, or not those of every size, can be derained; empty without an error."""
        return self._error or "; ".join(list(self._failed.values()))

    @property
    def building(self) -> str:
        """What is being loaded or compiled, for display; empty if nothing is."""
        build = self._build
        # An engine that the stand-in replaces is built while nothing else is done.
        return str(build) if build and self._clock() - self._news_s < BUILD_SILENCE_S else self._doing

    @property
    def quiet_s(self) -> float:
        """Seconds without progress in loading or compiling; 0 if neither is under way."""
        return self._clock() - self._news_s if self._doing else 0.0

    def ready_for(self, size: Size, batch: int = 1) -> bool:
        """Whether a batch of frames of this size would be derained at once."""
        derainer = self.derainer
        return derainer is not None and not self._closed and derainer.is_ready(*size, batch)

    def error_for(self, size: Size) -> str:
        """Why frames of this size cannot be derained; empty if they can, or will be able to."""
        return self._error or self._failed.get(size, "")

    def note_build(self, status: BuildStatus) -> None:
        """Note the progress of an engine build."""
        self._build, self._news_s = status, self._clock()

    def note_failure(self, error: str) -> None:
        """Note an error of the network."""
        self.last_error = error, self._clock()

    def request(self, size: Size) -> None:
        """Request a size, unless it is smaller than the network takes. Cheap if it is known already."""
        if min(size) < MIN_SIDE:
            return
        with self._changed:
            known = size in self._sizes
            self._sizes[size] = None
            self._sizes.move_to_end(size)
            while len(self._sizes) > self._max_sizes:
                self._failed.pop(self._sizes.popitem(last=False)[0], None)
            # Called for every frame: do not wake the thread without need.
            if not known:
                self.review_stages(may_rise=True)
            elif not (size in self._failed or self.ready_for(size)):
                self._changed.notify()
        if not known:
            self._on_change()

    def choose_stages(self, choice: StageChoice) -> None:
        """Load another number of stages; the current network serves until then."""
        with self._changed:
            self.choice, self._to_review = choice, None
        self.review_stages(may_rise=True)

    def review_stages(self, may_rise: bool = False) -> None:
        """Measure which number of stages holds the rate, if there is one; after missed deadlines, whether fewer do."""
        with self._changed:
            if self._sizes and self.choice.hz and self._to_review is None:
                self._to_review = next(reversed(self._sizes)), may_rise
            self._changed.notify()

    def restart(self, derainer: Derainer, error: str, thread: Thread, began_s: float) -> None:
        """Abandon ``derainer``, which hangs in ``thread`` since ``began_s``, and reload with back-off, up to a limit.

        ``error`` is reported until then.
        """
        with self._changed:
            self.restarts.left_behind.append(thread)
            if self.derainer is derainer:  # else another has taken its place already
                self.derainer = None
                self._plan_restart(error, began_s)
                error = self._error
                self._changed.notify()
        self._tell_error(error)
        _close(derainer)
        self._on_change()

    def close_replaced(self) -> None:
        """Free the networks that were replaced. Call it while no call is running."""
        while self._replaced:
            _close(self._replaced.pop())

    def close(self) -> None:
        """Stop. The thread ends after the current compilation, which is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.close_replaced()
        if self.derainer is not None:
            _close(self.derainer).join(CLOSE_TIMEOUT_S)

    def _plan_restart(self, error: str, began_s: float) -> None:
        again, self._error = self.restarts.plan(error, began_s)
        self._loaded_stages = None if again else self.choice.stages

    def _tell_error(self, error: str) -> None:
        self.note_failure(error)
        log.error(error)

    def _run(self) -> None:
        while (work := self._next_work()) is not None:
            self._news_s = self._clock()
            self._doing, do = work
            do()
            self._doing, self._build = "", None
            self._on_change()

    def _next_work(self) -> tuple[str, Callable[[], None]] | None:
        """What is to be done, for display and to call, once there is something; None once closed."""
        with self._changed:
            while not self._closed:
                timeout_s, stages, derainer = None, self.choice.stages, self.derainer
                if self._loaded_stages != stages:
                    timeout_s = self.restarts.pause_s
                    if timeout_s == 0:
                        return "loading the network", functools.partial(self._reload, stages)
                elif derainer is not None:
                    sizes = [size for size in reversed(self._sizes) if size not in self._failed]
                    if missing := [size for size in sizes if not derainer.is_ready(*size)]:
                        height, width = missing[0]
                        return f"compiling for {height}x{width}", functools.partial(self._compile, derainer, missing[0])
                    # The network that stands in for an engine is slower than the engine: do not measure it.
                    if self._to_review is not None and derainer.building:
                        timeout_s = REVIEW_POLL_S
                    elif self._to_review is not None:
                        review, self._to_review = self._to_review, None
                        return "measuring the network", functools.partial(self._review, derainer, *review)
                self._changed.wait(timeout_s)
        return None

    def _reload(self, stages: int) -> None:
        try:
            derainer = self._load(stages)
        except FAILURES as err:
            with self._changed:
                # Another try would fail too, until the stages change, unless this one is made for a network that hung.
                self._error, self._loaded_stages = describe(err), stages
                if self.restarts.in_a_row and self.derainer is None:
                    self._plan_restart(self._error, self._news_s)
            self._tell_error(self._error)
            return
        # The current network serves until the new one is ready for all sizes.
        with self._changed:
            sizes = list(self._sizes) if self.derainer is not None else []
        failed = {size: reason for size in sizes if not self._closed and (reason := self._prepare(derainer, size))}
        with self._changed:
            if self._closed:
                derainer.close()
                return
            if self.derainer is not None:
                self._replaced.append(self.derainer)
            # A size that has left the cache is no error.
            self._failed = {size: reason for size, reason in failed.items() if size in self._sizes}
            self.derainer, self._error, self._loaded_stages = derainer, "", stages
            self.restarts.loaded_s = self._clock()

    def _compile(self, derainer: Derainer, size: Size) -> None:
        reason = self._prepare(derainer, size)
        with self._changed:
            if reason and size in self._sizes:  # a size that has left the cache is no error
                self._failed[size] = reason

    def _review(self, derainer: Derainer, size: Size, may_rise: bool) -> None:
        choice, before = self.choice, self.choice.stages
        try:
            if derainer.is_ready(*size):
                choice.review(derainer, size, may_rise)
        except FAILURES as err:
            self._tell_error(describe(err))
        with self._changed:
            if choice is self.choice and choice.stages != before:
                self._to_review = size, False  # measure again once they are loaded

    def _prepare(self, derainer: Derainer, size: Size) -> str:
        """Compile for a size; returns the error, or nothing."""
        try:
            derainer.prepare(*size)
        except FAILURES as err:
            reason = describe(err)
            self._tell_error(reason)
            return reason
        return ""


def load_derainer(
    current: NodeParams, max_sizes: int, on_build: Callable[[BuildStatus], None], stages: int
) -> Derainer:
    """The Derainer that the parameters ask for. Raises BackendError, CheckpointError."""
    from sapnet.derainer import Derainer

    fake = {name: getattr(current, f"fake_{name}") for name in ("latency_ms", "fail_every", "mode", "build_s")}
    return Derainer(
        current.weights,
        current.backend,
        device=current.device,
        precision=current.precision,
        stages=stages,
        max_shapes=max_sizes,
        max_batch=max(1, len(current.cameras)),
        cache_dir=current.cache_dir,
        engine=current.engine,
        on_build=on_build,
        fake=fake if current.backend == "fake" else {},
        stand_in=current.stand_in,
    )


def _close(derainer: Derainer) -> Thread:
    """Free a network on its own thread, as this may hang if a call does."""
    thread = Thread(target=derainer.close, name="close", daemon=True)
    thread.start()
    return thread
