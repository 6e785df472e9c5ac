"""The results of a demo: figures, contact sheet and side-by-side video."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np

import sapnet
from sapnet.bags import open_recording
from sapnet.bags.types import decode, header_stamp
from sapnet.images.frame import Frame, psnr_y
from sapnet.media.contact_sheet import contact_sheet, side_by_side_video
from sapnet.media.sequence import RainyFrame, RainySequence
from sapnet_ros.demo.recording import NAMESPACE, Sizes

SHEET = "contact_sheet.png"
VIDEO = "derained.mp4"
SHEET_ROWS = 6
# What each backend computes with; torch is named on every one, for it reads the weights.
_LIBRARIES = ("rclpy", "rosbags", "torch", "openvino", "tensorrt", "tensorrt_rtx")
_DERAINED, _MASK = f"{NAMESPACE}/derained/image", f"{NAMESPACE}/streak_mask/image"


def write_pictures(
    bag: Path, sizes: Sizes, outcomes: Mapping[int, str], sequence: RainySequence, rate: float, folder: Path
) -> dict[str, float | None]:
    """Write the contact sheet and the video of a recording into ``folder``.

    outcomes: ``derained`` or ``passed_through``, by stamp.
    Returns the mean PSNR before and after of the derained frames whose clean original is known; None without any.
    """
    rainy_db, derained_db, rows, labels = list[float](), list[float](), [], []
    shown = _shown(outcomes)
    height, width = (max(sides) for sides in zip(*sizes.values(), strict=True))
    indices = {stamp: index for index, stamp in enumerate(sizes)}
    with side_by_side_video(folder / VIDEO, rate, height, width) as add:
        for stamp, frame, derained, mask in _pairs(bag, sizes, sequence):
            add(frame.rainy, derained)
            if outcomes.get(stamp) != "derained":
                continue
            label = f"frame {indices[stamp]}"
            label += "" if frame.name.isdecimal() else f", {frame.name}"
            if frame.clean is not None:
                rainy_db.append(psnr_y(frame.rainy, frame.clean))
                derained_db.append(psnr_y(derained, frame.clean))
                label += f": rainy {rainy_db[-1]:.1f} dB, derained {derained_db[-1]:.1f} dB"
            if stamp in shown:
                row = {"rainy": frame.rainy, "derained": derained, "streak mask": mask}
                rows.append(row if frame.clean is None else row | {"clean": frame.clean})
                labels.append(label)
    contact_sheet(rows, folder / SHEET, labels)
    means = [round(fmean(values), 2) if values else None for values in (rainy_db, derained_db)]
    return dict(zip(("psnr_rainy", "psnr_derained"), means, strict=True))


def summarize(figures: dict[str, Any], quality: dict[str, float | None]) -> dict[str, Any]:
    """``summary.json`` from the figures of a Replay and the PSNR."""
    (camera,), network = figures["cameras"], figures["network"]
    counts = ("sent", "received", "derained", "passed_through", "dropped", "latency_ms")
    return {
        **{name: camera[name] for name in counts},
        **quality,
        **{name: network[name] for name in ("backend", "precision", "weights")},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of this project, and of the installed libraries that the figures depend on."""
    found = {"sapnet": sapnet.__version__, "python": platform.python_version()}
    found |= {"numpy": np.__version__, "opencv": cv2.__version__}
    for library in _LIBRARIES:
        for distribution in (library, f"ros-{library}"):
            with suppress(metadata.PackageNotFoundError):
                found[library] = metadata.version(distribution)
    return found


def _shown(outcomes: Mapping[int, str]) -> set[int]:
    """Stamps of derained frames spread evenly over the run."""
    derained = [stamp for stamp, outcome in sorted(outcomes.items()) if outcome == "derained"]
    picked = np.linspace(0, len(derained) - 1, min(SHEET_ROWS, len(derained))).round().astype(int)
    return {derained[index] for index in picked}


def _pairs(bag: Path, sizes: Sizes, sequence: RainySequence) -> Iterator[tuple[int, RainyFrame, Frame, Frame]]:
    """Stamp, frame, derained frame and streak mask of every frame that came back, in order."""
    frames = zip(sizes, sequence, strict=True)
    waiting: dict[int, dict[str, Frame]] = {}
    with open_recording(bag) as source:
        for recorded in source.messages([topic for topic in source.topics if topic.name in (_DERAINED, _MASK)]):
            stamp = header_stamp(recorded.data)
            parts = waiting.setdefault(stamp, {})
            parts[recorded.topic.name] = decode(recorded).decoded.bgr
            if len(parts) == 2:
                del waiting[stamp]
                frame = next(frame for sent, frame in frames if sent == stamp)
                yield stamp, frame, parts[_DERAINED], np.ascontiguousarray(parts[_MASK][:, :, 0])
