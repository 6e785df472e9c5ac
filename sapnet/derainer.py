"""Frames in, derained frames and streaks out: the one entry to the network for everything that has images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sapnet.backends import BackendSpec, create_backend
from sapnet.backends.base import Frames
from sapnet.errors import BackendError, ImageFormatError
from sapnet.images.frame import Frame, require_frame
from sapnet.streaks import DEFAULT_MASK_THRESHOLD, rain_score, streak_mask

# Points a side at which a result is looked at, how far frame and streaks may be apart there (both are rounded), and
# the share of points that may be further apart.
_LOOKED_AT = 32
_TOLERANCE = 2.0
_MAX_APART = 0.02
_CONTENT = 16  # values that a frame must span to be no frame of one colour
_MOSTLY = 0.5  # share of zeros and full values in a frame from which on a result of nothing else is no wonder
_LUMA = np.array((0.114, 0.587, 0.299), np.float32)  # of BGR

# Bounds the memory of a long list of frames; a batch that fills the processor gains nothing from more.
MAX_BATCH = 8


@dataclass(frozen=True, eq=False)
class Derained:
    """What came out for one frame.

    image: uint8 (H, W, 3) BGR. streaks: uint8 (H, W), how much luma was taken out.
    mask_threshold: streaks above it are in the mask.
    """

    image: Frame
    streaks: Frame
    mask_threshold: int = DEFAULT_MASK_THRESHOLD

    @property
    def streak_mask(self) -> Frame:
        """uint8 (H, W), 0 or 255: streaks above the threshold."""
        return streak_mask(self.streaks, self.mask_threshold)

    @cached_property
    def rain_score(self) -> float:
        """How much rain there was, in [0, 1]."""
        return rain_score(self.streaks)


class Derainer:
    """Takes rain out of frames. May be called from several threads; close it, or use it in a ``with`` statement.

    weights: a preset with shipped weights, or the path of a checkpoint.
    backend: ``auto`` (the fastest that runs here), ``tensorrt``, ``torch``, ``openvino`` or ``fake``.
    mask_threshold: 0 to 255.
    options: device, precision, stages and the other fields of BackendSpec.
    Raises BackendError, CheckpointError; ValueError for the threshold.
    """

    def __init__(
        self,
        weights: str | Path = "sapnet_fast",
        backend: str = "auto",
        *,
        mask_threshold: int = DEFAULT_MASK_THRESHOLD,
        **options: Any,
    ) -> None:
        if type(mask_threshold) is not int or not 0 <= mask_threshold <= 255:
            raise ValueError(f"got mask_threshold {mask_threshold!r}, expected a whole number from 0 to 255")
        self.weights = str(weights)
        self.mask_threshold = mask_threshold
        spec = BackendSpec(weights=self.weights, **options)
        self._backend = create_backend(backend, spec)
        self.stages = self._backend.stages

    def __call__(self, frames: Sequence[Frame]) -> list[Derained]:
        """Derain frames, uint8 (H, W, 3) BGR from 16x16 up, of one size or several; results in the same order.

        Frames of equal size share a batch. The results share no memory with the frames or each other.
        Raises ImageFormatError before anything is run, BackendError.
        """
        if isinstance(frames, np.ndarray) and frames.ndim < 4:
            raise ImageFormatError(f"got one array of shape {frames.shape}, expected a list of frames: [frame]")
        checked = [require_frame(frame) for frame in frames]
        results: dict[int, Derained] = {}
        for indices in _batches(checked):
            derained = self._run([checked[index] for index in indices])
            results.update(zip(indices, derained, strict=True))
        return [results[index] for index in range(len(checked))]

    @property
    def backend_name(self) -> str:
        """The backend that runs now: ``auto`` may change over to TensorRT once an engine is built."""
        return self._backend.name

    @property
    def precision(self) -> str:
        """Of what runs now."""
        return self._backend.precision

    @property
    def device(self) -> str:
        """Of what runs now, for people."""
        return self._backend.device

    @property
    def facts(self) -> dict[str, Any]:
        """What runs now, by the names that reports and journals use, as JSON values."""
        network = {"weights": self.weights, "stages": self.stages, "backend": self.backend_name}
        return {**network, "precision": self.precision, "device": self.device}

    @property
    def building(self) -> bool:
        """Whether what runs now stands in for an engine that is being built."""
        return self._backend.building

    def is_ready(self, height: int, width: int, batch: int = 1) -> bool:
        """Whether a batch of such frames would be derained without compiling anything."""
        return all(self._backend.is_ready(size, height, width) for size in _batch_sizes(batch))

    def prepare(self, height: int, width: int, batch: int = 1) -> None:
        """Compile for a batch of frames of that size; may take seconds. Raises BackendError."""
        for size in _batch_sizes(batch):
            self._backend.prepare(size, height, width)

    def close(self) -> None:
        """Free the backend; an inference in progress ends or raises, further ones raise BackendError."""
        self._backend.close()

    def __enter__(self) -> Derainer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _run(self, frames: Sequence[Frame]) -> list[Derained]:
        """Derain one batch of equal-sized frames."""
        alone = len(frames) == 1
        batch = frames[0][np.newaxis] if alone else np.stack(frames)
        images, streaks = self._backend.infer(batch)
        for what, got, shape in (("frames", images, batch.shape), ("streaks", streaks, batch.shape[:3])):
            if got.dtype != np.uint8 or got.shape != shape:
                said = f"{what} as {got.dtype} {got.shape}, expected uint8 {shape}"
                raise BackendError(f"backend {self.backend_name!r} returned {said}; use another backend")
        self._require_sound(batch, images, streaks)
        # Copied, so that keeping one result does not keep its whole batch.
        keep = np.asarray if alone else np.copy
        pairs = zip(images, streaks, strict=True)
        return [Derained(keep(image), keep(streak), self.mask_threshold) for image, streak in pairs]

    def _require_sound(self, rainy: Frames, derained: Frames, streaks: Frames) -> None:
        """Raise BackendError for a damaged result of the right type and shape, which must not reach a detector.

        A network that overflows comes out as one colour all over, as nothing but zeros and full values, or as a frame
        without the streaks that were taken out of it, whichever the backend makes of infinity and NaN; memory that was
        written over comes out as the last.
        """
        rows, columns = (max(1, side // _LOOKED_AT) for side in streaks.shape[1:])
        points = np.s_[:, ::rows, ::columns]
        before, after = rainy[points], derained[points]
        one_colour = np.ptp(after, axis=(1, 2, 3)) == 0
        full_before, full_after = (((of == 0) | (of == 255)).mean(axis=(1, 2, 3)) for of in (before, after))
        saturated = (full_after == 1) & (full_before < _MOSTLY)
        emptied = (one_colour | saturated) & (np.ptp(before, axis=(1, 2, 3)) > _CONTENT)
        taken_out = (before.astype(np.float32) - after) @ _LUMA
        apart = (np.abs(np.maximum(taken_out, 0.0) - streaks[points]) > _TOLERANCE).mean(axis=(1, 2)).max()
        if emptied.any() or apart > _MAX_APART:
            raise BackendError(
                f"backend {self.backend_name!r} returned a damaged result ({int(emptied.sum())} of {len(rainy)} frames "
                f"without content, streaks that contradict {apart:.0%} of the pixels): the network overflows in "
                f"precision {self.precision!r}, or the device's memory is faulty; use another precision or backend"
            )


def _batches(frames: Sequence[Frame]) -> list[list[int]]:
    """Indices of frames that share a batch: equal sizes, at most ``MAX_BATCH``."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(frame.shape, []).append(index)
    return [group[at : at + MAX_BATCH] for group in groups.values() for at in range(0, len(group), MAX_BATCH)]


def _batch_sizes(count: int) -> set[int]:
    """Sizes of the batches that ``count`` equal-sized frames are run in."""
    return {min(MAX_BATCH, count - at) for at in range(0, count, MAX_BATCH)}
