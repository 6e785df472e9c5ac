"""What became of a recording that was derained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapnet.errors import BagError, first_line
from sapnet.files import read_json

_ADVICE = "derain it anew with --overwrite"


@dataclass
class CameraReport:
    """What became of a camera's frames.

    topic, derained, streak_mask: the source's topic and those of the outputs. frames: seen in all, of which some were
    derained, some skipped by the stride, some unreadable. times_ns, rain_scores, latencies_ms: of each derained frame
    its log time, its score (0 to 1) and its share of the network's time.
    """

    topic: str
    derained: str
    streak_mask: str
    frames: int = 0
    derained_frames: int = 0
    skipped: int = 0
    unreadable: int = 0
    times_ns: list[int] = field(default_factory=list)
    rain_scores: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, other: CameraReport) -> None:
        """Add what became of frames that came after these."""
        self.frames += other.frames
        self.derained_frames += other.derained_frames
        self.skipped += other.skipped
        self.unreadable += other.unreadable
        self.times_ns += other.times_ns
        self.rain_scores += other.rain_scores
        self.latencies_ms += other.latencies_ms


@dataclass
class BagReport:
    """The result of deraining a recording. messages: written. seconds: time spent on it, over all runs.

    notes: problems found in the recording or its images, a sentence each.
    is_partial: only a part of the recording could be read, and the output holds that part.
    network: weights, backend, precision, stages and device. job: input files, options and network.
    """

    input: str
    output: str
    cameras: list[CameraReport]
    messages: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    network: dict[str, str | int] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    is_partial: bool = False

    @property
    def frames(self) -> int:
        """Derained ones of all cameras."""
        return sum(camera.derained_frames for camera in self.cameras)

    def add(self, other: BagReport) -> None:
        """Add what became of a part of the recording that comes after this; its notes are left to the caller."""
        for camera, more in zip(self.cameras, other.cameras, strict=True):
            camera.add(more)
        self.messages += other.messages
        self.seconds += other.seconds

    @staticmethod
    def from_json(values: dict[str, Any]) -> BagReport:
        """The report that ``dataclasses.asdict`` gave these values of."""
        return BagReport(**{**values, "cameras": [CameraReport(**camera) for camera in values["cameras"]]})


def read_report(path: Path) -> BagReport:
    """What was written of a recording. Raises BagError where that is damaged, OSError."""
    values = read_json(path, _ADVICE)
    try:
        return BagReport.from_json(values)
    except (TypeError, KeyError, AttributeError) as err:
        raise BagError(f"{path} is damaged ({first_line(err)}); {_ADVICE}") from err
