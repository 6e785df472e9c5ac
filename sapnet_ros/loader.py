"""Gets the network ready in the background, so that no callback and no transition waits for it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Condition, Thread
from typing import TYPE_CHECKING

from sapnet.errors import SapnetError
from sapnet_ros.params import NodeParams, Size

if TYPE_CHECKING:
    from sapnet.backends import BuildStatus
    from sapnet.derainer import Derainer

# Backends tell twice a second how a build goes: one that was silent for longer has ended.
BUILD_SILENCE_S = 3.0


class Loader:
    """Owns the Derainer: loads it, and compiles it for every size that is asked for, on a thread of its own.

    load: makes a Derainer for a number of stages, one that keeps ``max_sizes`` compiled; may take seconds.
    max_sizes: frame sizes kept ready at once; the one not seen for longest is given up for another.
    on_change: called, from any thread, whenever ``ready`` may have changed.
    on_error: called with a text when loading or compiling failed.
    """

    def __init__(
        self,
        load: Callable[[int], Derainer],
        stages: int,
        sizes: Iterable[Size],
        max_sizes: int,
        on_change: Callable[[], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._load = load
        self._stages = stages
        self._on_change = on_change
        self._on_error = on_error
        self._changed = Condition()
        self._closed = False
        self._derainer: Derainer | None = None
        self._loaded_stages: int | None = None
        self._error = ""
        self._sizes: OrderedDict[Size, None] = OrderedDict.fromkeys(sizes)
        self._max_sizes = max_sizes
        self._failed: dict[Size, str] = {}
        self._build: BuildStatus | None = None
        self._build_told_s = 0.0
        self.thread = Thread(target=self._run, name="loader", daemon=True)
        self.thread.start()

    @property
    def derainer(self) -> Derainer | None:
        """The Derainer, once loaded."""
        return self._derainer

    @property
    def ready(self) -> bool:
        """Whether every known size, and there is one, would be derained at once."""
        with self._changed:
            sizes = list(self._sizes)
        return bool(sizes) and all(self.ready_for(size) for size in sizes)

    @property
    def error(self) -> str:
        """Why nothing can be derained, or not every size; empty if all is well."""
        return self._error or "; ".join(list(self._failed.values()))

    @property
    def building(self) -> str:
        """What is being got ready now, for people; empty if nothing is."""
        if self._error:
            return ""
        if self._derainer is None or self._loaded_stages != self._stages:
            return "loading the network"
        if self._build is not None and time.monotonic() - self._build_told_s < BUILD_SILENCE_S:
            return str(self._build)
        with self._changed:
            missing = self._next_size()
        return f"compiling for {missing[0]}x{missing[1]}" if missing else ""

    def ready_for(self, size: Size) -> bool:
        """Whether a frame of this size would be derained at once."""
        derainer = self._derainer
        return derainer is not None and derainer.is_ready(*size)

    def error_for(self, size: Size) -> str:
        """Why frames of this size cannot be derained; empty if they can, or will be able to."""
        return self._error or self._failed.get(size, "")

    def note_build(self, status: BuildStatus) -> None:
        """How the build of an engine goes: told by a backend while it loads or compiles."""
        self._build, self._build_told_s = status, time.monotonic()

    def request(self, size: Size) -> None:
        """Have a size made ready. Cheap when it is known already."""
        with self._changed:
            known = size in self._sizes
            self._sizes[size] = None
            self._sizes.move_to_end(size)
            while len(self._sizes) > self._max_sizes:
                self._failed.pop(self._sizes.popitem(last=False)[0], None)
            self._changed.notify()
        if not known:
            self._on_change()

    def set_stages(self, stages: int) -> None:
        """Load anew with this number of stages; what is loaded serves until then."""
        with self._changed:
            self._stages = stages
            self._changed.notify()

    def close(self) -> None:
        """Stop. A compilation under way is not waited for; its thread ends after it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._derainer is not None:
            self._derainer.close()

    def _next_size(self) -> Size | None:
        if self._derainer is None:
            return None
        for size in reversed(self._sizes):
            if size not in self._failed and not self.ready_for(size):
                return size
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and self._loaded_stages == self._stages and self._next_size() is None:
                    self._changed.wait()
                if self._closed:
                    return
                stages, size = self._stages, self._next_size()
            if self._loaded_stages != stages:
                self._reload(stages)
            elif size is not None:
                self._compile(size)
            try:
                self._on_change()
            except Exception as err:  # telling others must not end the loading
                self._on_error(_describe(err))

    def _reload(self, stages: int) -> None:
        try:
            derainer = self._load(stages)
        except Exception as err:
            self._error = _describe(err)
            self._on_error(self._error)
        else:
            # What is loaded serves until the new one can take over; where nothing is, the sizes come one by one.
            with self._changed:
                sizes = list(self._sizes) if self._derainer is not None else []
            failed = {size: reason for size in sizes if not self._closed and (reason := self._prepare(derainer, size))}
            with self._changed:
                if self._closed:
                    derainer.close()
                    return
                self._derainer, self._failed, self._error = derainer, failed, ""
        # Set on failure too: the same load would fail again, and only a change of stages asks for another.
        self._loaded_stages = stages

    def _compile(self, size: Size) -> None:
        if self._derainer is not None and (reason := self._prepare(self._derainer, size)):
            self._failed[size] = reason

    def _prepare(self, derainer: Derainer, size: Size) -> str:
        """Compile for a size; returns why it failed, or nothing."""
        try:
            derainer.prepare(*size)
        except Exception as err:
            reason = _describe(err)
            self._on_error(reason)
            return reason
        return ""


def load_derainer(
    current: NodeParams, max_sizes: int, on_build: Callable[[BuildStatus], None], stages: int
) -> Derainer:
    """The Derainer that the parameters ask for. Raises BackendError, CheckpointError."""
    from sapnet.derainer import Derainer

    options = {}
    if current.backend == "fake":
        options = {
            "latency_ms": current.fake_latency_ms,
            "fail_every": current.fake_fail_every,
            "mode": current.fake_mode,
            "build_s": current.fake_build_s,
        }
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
        options=options,
    )


def _describe(err: Exception) -> str:
    """The text of an expected error; an unexpected one also says its type."""
    return str(err) if isinstance(err, SapnetError) else f"{type(err).__name__}: {err}"
