"""The results of a demo: figures, contact sheet and side-by-side video."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader

import sapnet
from sapnet.images.frame import Frame, psnr_y
from sapnet.images.messages import decode_image
from sapnet.media.contact_sheet import contact_sheet, side_by_side_video
from sapnet.media.sequence import RainyFrame, RainySequence
from sapnet_ros.demo.recording import NAMESPACE

SHEET = "contact_sheet.png"
VIDEO = "derained.mp4"
SHEET_ROWS = 6
# What each backend computes with; torch is named on every one, for it reads the weights.
_LIBRARIES = ("rclpy", "rosbags", "torch", "openvino", "tensorrt", "tensorrt_rtx")
_DERAINED, _MASK = f"{NAMESPACE}/derained/image", f"{NAMESPACE}/streak_mask/image"


@dataclass(frozen=True)
class Recording:
    """What a run recorded, by stamp in ns: height and width of the frames, ``derained`` or ``passed_through``."""

    bag: Path
    sizes: dict[int, tuple[int, int]]
    outcomes: dict[int, str]


@dataclass
class Quality:
    """PSNR of each derained frame whose clean original is known, in dB, before and after."""

    rainy: list[float] = field(default_factory=list)
    derained: list[float] = field(default_factory=list)


def write_pictures(recording: Recording, sequence: RainySequence, rate: float, folder: Path) -> Quality:
    """Write the contact sheet and the video of a recording into ``folder``."""
    quality, rows, labels = Quality(), [], []
    shown = _shown(recording)
    height, width = (max(sides) for sides in zip(*recording.sizes.values(), strict=True))
    indices = {stamp: index for index, stamp in enumerate(recording.sizes)}
    with side_by_side_video(folder / VIDEO, rate, height, width) as add:
        for stamp, frame, derained, mask in _pairs(recording, sequence):
            add(frame.rainy, derained)
            if recording.outcomes.get(stamp) != "derained":
                continue
            label = f"frame {indices[stamp]}"
            label += "" if frame.name.isdecimal() else f", {frame.name}"
            if frame.clean is not None:
                quality.rainy.append(psnr_y(frame.rainy, frame.clean))
                quality.derained.append(psnr_y(derained, frame.clean))
                label += f": rainy {quality.rainy[-1]:.1f} dB, derained {quality.derained[-1]:.1f} dB"
            if stamp in shown:
                row = {"rainy": frame.rainy, "derained": derained, "streak mask": mask}
                rows.append(row if frame.clean is None else row | {"clean": frame.clean})
                labels.append(label)
    contact_sheet(rows, folder / SHEET, labels)
    return quality


def summarize(figures: dict[str, Any], quality: Quality) -> dict[str, Any]:
    """``summary.json`` from the figures of a ReplayRun; PSNR is null where no clean frame is known."""
    (camera,), network = figures["cameras"], figures["network"]
    counts = ("sent", "received", "derained", "passed_through", "dropped", "latency_ms")
    return {
        **{name: camera[name] for name in counts},
        "psnr_rainy": round(fmean(quality.rainy), 2) if quality.rainy else None,
        "psnr_derained": round(fmean(quality.derained), 2) if quality.derained else None,
        **{name: network[name] for name in ("backend", "precision", "weights")},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of this project, and of the installed libraries that the figures depend on."""
    found = {"sapnet": sapnet.__version__, "python": platform.python_version()}
    found |= {"numpy": np.__version__, "opencv": cv2.__version__}
    for library in _LIBRARIES:
        for distribution in (library, f"ros-{library}"):
            try:
                found[library] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
    return found


def _shown(recording: Recording) -> set[int]:
    """Stamps of derained frames spread evenly over the run."""
    derained = [stamp for stamp, outcome in sorted(recording.outcomes.items()) if outcome == "derained"]
    picked = np.linspace(0, len(derained) - 1, min(SHEET_ROWS, len(derained))).round().astype(int)
    return {derained[index] for index in picked}


def _pairs(recording: Recording, sequence: RainySequence) -> Iterator[tuple[int, RainyFrame, Frame, Frame]]:
    """Stamp, frame, derained frame and streak mask of every frame that came back, in order."""
    frames = zip(recording.sizes, sequence, strict=True)
    for stamp, derained, mask in _outputs(recording.bag):
        yield stamp, next(frame for sent, frame in frames if sent == stamp), derained, mask


def _outputs(bag: Path) -> Iterator[tuple[int, Frame, Frame]]:
    """Stamp, derained frame and streak mask from a recording."""
    waiting: dict[int, dict[str, Frame]] = {}
    with AnyReader([bag]) as reader:
        connections = [connection for connection in reader.connections if connection.topic in (_DERAINED, _MASK)]
        for connection, _, data in reader.messages(connections=connections):
            message: Any = reader.deserialize(data, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            parts = waiting.setdefault(stamp, {})
            parts[connection.topic] = decode_image(message).bgr
            if len(parts) == 2:
                del waiting[stamp]
                yield stamp, parts[_DERAINED], np.ascontiguousarray(parts[_MASK][:, :, 0])
