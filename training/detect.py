"""Whether deraining helps an object detector: ``python -m training.detect --detector MODEL --clips IN...``.

What it finds on clean frames is expected; the figures say what it loses to rain and wins back from deraining.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from sapnet import Derainer
from sapnet.commands.common import derainer_from, parse_positive, progress_bar, whole_number
from sapnet.errors import SapnetError
from sapnet.images.frame import Frame
from sapnet.media.contact_sheet import contact_sheet
from sapnet.media.formats import is_video
from sapnet.media.sequence import limit_width, read_frames
from sapnet.rain import RAIN_PRESETS, RainSynthesizer
from training.commands import add_networks, make_parser, one_line_errors, parse_picture, table
from training.datasets.paired import short_names
from training.detector import Detections, Detector, Floats

CLEAN, RAINY = "clean", "rainy"
# What counts as detected, and the overlap from which two objects are the same.
CONFIDENCE, IOU = 0.4, 0.5
_SHOWN_FRAMES = 6
_RESAMPLES = 2000
_INTERVAL = (0.025, 0.975)

_GREEN, _RED, _YELLOW = (80, 210, 80), (70, 70, 245), (40, 200, 250)
# Fewer leave the figures to chance.
MIN_CLEAN_DETECTIONS = 200

# Of each figure: heading.
_COLUMNS = {name: name for name in ("recall", "precision", "confidence")} | {"won_back": "lost recall won back"}

_DESCRIPTION = f"""\
Puts rain on clean frames, derains them, and lets a detector look at the clean, rainy and derained frames.

Recall is the share of what it finds on the clean frames that it finds again; precision, the share of what it finds
that it also finds on the clean frames; confidence, its mean over what it finds again. An object, of confidence
{CONFIDENCE} or more, is found again if one of its class overlaps it by an IoU of {IOU}; no object counts twice.
Brackets hold the 95 % bootstrap interval over frames, each drawn with all its seeds.
"""

_EXAMPLES = """\
examples:
  python -m training.detect --detector fastestdet.onnx --clips drive.mp4 photos/ --picture detect.png
  python -m training.detect --detector fastestdet.onnx --clips drive.mp4 --weights sapnet_fast mine.safetensors --json
"""


def clean_frames(clips: Sequence[Path], stride: int = 4, max_width: int = 0) -> Iterator[tuple[str, Frame]]:
    """Names and clean frames, uint8 (H, W, 3) BGR: all images, and every ``stride``-th frame of videos.

    clips: images, folders of them, videos. max_width: wider frames are scaled down; 0 for none. Raises SapnetError.
    """
    for clip in clips:
        for name, frame in islice(read_frames(clip), None, None, stride if is_video(clip) else 1):
            yield f"{clip.name} {name}", limit_width(frame, max_width)


def run_experiment(
    frames: Callable[[], Iterable[tuple[str, Frame]]],
    detector: Detector,
    derainers: Mapping[str, Derainer],
    rain: str = "heavy",
    seeds: Sequence[int] = (1, 2, 3),
    bar: Progress | None = None,
) -> tuple[dict[str, Floats], list[tuple[str, dict[str, Frame]]]]:
    """Detect on the clean frames, then on the same in rain and derained.

    frames: names and clean frames, the same each time. derainers: by the names that their versions shall have.
    rain: a preset of ``sapnet.rain``. bar: gets a task that counts frames.
    Returns, by the version of the frames (clean, rainy, derained by ...), the ``count`` of each frame, (frames, 4), its
    seeds added up; and labels and rows of a contact sheet, a few frames under the first seed's rain.
    Raises SapnetError, also where nothing is found on the clean frames.
    """
    bar = bar or Progress(disable=True)
    task = bar.add_task("frames", total=None)
    expected = [detector(clean, CONFIDENCE) for _, clean in frames()]
    found_on = [index for index, objects in enumerate(expected) if len(objects)]
    if not found_on:
        raise SapnetError(
            f"the detector finds nothing on the {len(expected)} clean frames at confidence {CONFIDENCE}; "
            "give clips of objects that it knows"
        )
    counts: dict[str, Floats] = {name: np.zeros((len(expected), 4)) for name in (CLEAN, RAINY, *derainers)}
    pictures = []
    shown = {found_on[at] for at in np.linspace(0, len(found_on) - 1, _SHOWN_FRAMES).round().astype(int)}
    synthesizer = cache(partial(RainSynthesizer, rain))
    pairs = zip(frames(), expected, strict=True)
    for index, ((label, clean), objects) in enumerate(bar.track(pairs, len(expected), task_id=task)):
        for seed in seeds:
            rainy = synthesizer(*clean.shape[:2], seed).add(clean, index)[0]
            seen = {CLEAN: clean, RAINY: rainy, **{by: derain([rainy])[0].image for by, derain in derainers.items()}}
            found = {version: detector(frame, CONFIDENCE) for version, frame in seen.items()}
            for version, detections in found.items():
                counts[version][index] += count(detections, objects)
            if index in shown and seed == seeds[0]:
                boxes = {version: draw_detections(seen[version], found[version], objects) for version in seen}
                pictures.append((label, boxes))
    return counts, pictures


def match(found: Detections, expected: Detections) -> NDArray[np.int64]:
    """(N,): for each found object the index of the expected one that it is, -1 for none.

    In order of confidence, each takes the free expected object of its class that it overlaps most, by at least ``IOU``.
    """
    candidates = _overlaps(found.boxes, expected.boxes)
    candidates[(found.classes[:, None] != expected.classes[None, :]) | (candidates < IOU)] = -1.0
    matched = np.full(len(found), -1)
    for index in np.argsort(-found.confidences, kind="stable").tolist() if len(expected) else ():
        best = int(candidates[index].argmax())
        if candidates[index, best] >= 0:
            matched[index] = best
            candidates[:, best] = -1.0
    return matched


def _overlaps(boxes: Floats, others: Floats) -> Floats:
    """(N, M): intersection over union of each of ``boxes`` (N, 4) with each of ``others`` (M, 4)."""
    shared = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    intersection = np.clip(shared, 0, None).prod(axis=-1)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(axis=-1) for each in (boxes, others))
    return np.nan_to_num(_ratio(intersection, areas[:, None] + other_areas[None, :] - intersection))


def count(found: Detections, expected: Detections) -> Floats:
    """(4,): objects expected, found, and matched, and the sum of the matched ones' confidences; add up to pool."""
    hits = match(found, expected) >= 0
    return np.array((len(expected), len(found), hits.sum(), found.confidences[hits].sum()), np.float64)


def summarise(counts: Mapping[str, Floats]) -> dict[str, dict[str, Any]]:
    """Version of the frames -> figure -> its value and 95 % bootstrap interval, None where they are undefined.

    counts: of ``run_experiment``. ``won_back``, of derained versions: the share of the recall that rain took which
    deraining gave back, below 0 where it took more. All versions draw the same frames.
    """
    frames = len(counts[RAINY])
    drawn = np.random.default_rng(0).multinomial(frames, np.full(frames, 1 / frames), size=_RESAMPLES)
    weights = np.vstack([np.ones(frames), drawn])  # all frames, then those of each resample
    figures: dict[str, dict[str, Any]] = {}
    in_rain = _ratio(*(weights @ counts[RAINY][:, [2, 0]]).T)
    for version, of_frames in counts.items():
        expected, found, matched, confidence = (weights @ of_frames).T
        recall = _ratio(matched, expected)
        values = {"recall": recall, "precision": _ratio(matched, found), "confidence": _ratio(confidence, matched)}
        if version not in (CLEAN, RAINY):
            values["won_back"] = _ratio(recall - in_rain, 1 - in_rain)
        figures[version] = {name: _figure(*value) for name, value in values.items()}
    return figures


def _ratio(part: Floats, whole: Floats) -> Floats:
    result: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result


def _figure(value: float, *resampled: float) -> dict[str, Any]:
    defined = [one for one in resampled if not np.isnan(one)]
    bounds = np.quantile(defined, _INTERVAL).tolist() if defined else [None, None]
    return {"value": None if np.isnan(value) else float(value), "interval": bounds}


def draw_detections(frame: Frame, found: Detections, expected: Detections) -> Frame:
    """A copy of the frame with boxes: green around what was found again, red around what was missed, yellow if new."""
    picture = frame.copy()
    partners = match(found, expected).tolist()
    boxes = [(expected.boxes[index], _RED) for index in range(len(expected)) if index not in partners]
    boxes += [(box, _YELLOW if at < 0 else _GREEN) for box, at in zip(found.boxes, partners, strict=True)]
    for box, colour in boxes:
        left, top, right, bottom = box.round().astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), colour, max(1, frame.shape[1] // 320), cv2.LINE_AA)
    return picture


@one_line_errors("detect")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    args = _parser().parse_args(argv)
    names = short_names([CLEAN, RAINY, *args.weights])
    with ExitStack() as stack:
        detector = Detector(args.detector)
        derainers = {names[given]: stack.enter_context(derainer_from(args, weights=given)) for given in args.weights}
        bar = stack.enter_context(progress_bar())
        frames = partial(clean_frames, args.clips, args.stride, args.max_width)
        counts, pictures = run_experiment(frames, detector, derainers, args.rain, args.seeds, bar)
    if args.picture:
        contact_sheet([row for _, row in pictures], args.picture, [label for label, _ in pictures])
    looked_at, figures = len(counts[CLEAN]), summarise(counts)
    clean = int(counts[CLEAN][:, 0].sum()) // len(args.seeds)
    if clean < MIN_CLEAN_DETECTIONS:
        print(
            f"detect: warning: {clean} objects on the clean frames, expected at least {MIN_CLEAN_DETECTIONS}; "
            "give more clips or a smaller --stride",
            file=sys.stderr,
        )
    if args.json:
        networks = {
            name: {key: getattr(derainer, key) for key in ("weights", "stages", "backend_name", "precision")}
            for name, derainer in derainers.items()
        }
        report = {
            **{name: getattr(args, name) for name in ("detector", "clips", "rain", "seeds", "stride", "max_width")},
            "frames": looked_at,
            "clean_detections": clean,
            "networks": networks,
            "figures": figures,
        }
        print(json.dumps(report, indent=2, default=str))
    else:
        seeds = ", ".join(map(str, args.seeds))
        print(f"{clean} objects on {looked_at} clean frames; {args.rain} rain, seeds {seeds}\n")
        rows = [[name, *(_cell(**of_name.get(key, {})) for key in _COLUMNS)] for name, of_name in figures.items()]
        print(table(["frames", *_COLUMNS.values()], rows))
    return 0


def _cell(value: float | None = None, interval: Sequence[float] = ()) -> str:
    return "-" if value is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("detect", _DESCRIPTION, _EXAMPLES)
    add_networks(parser, default=["sapnet_fast"])
    default = "(default: %(default)s)"
    add = parser.add_argument
    add("--detector", required=True, type=Path, metavar="MODEL", help="ONNX file of FastestDet's layout")
    add("--clips", nargs="+", required=True, type=Path, metavar="IN", help="clean videos, images, folders of images")
    add("--rain", choices=RAIN_PRESETS, default="heavy", help=default)
    add("--seeds", nargs="+", type=whole_number(0), default=[1, 2, 3], metavar="N", help="of the rain (default: 1 2 3)")
    add("--stride", type=parse_positive, default=4, metavar="N", help=f"take every Nth frame of videos {default}")
    add("--max-width", type=parse_positive, default=0, metavar="N", help="scale wider frames down first")
    picture = "write a few frames: found again green, missed red, new yellow"
    add("--picture", type=parse_picture, metavar="PNG", help=picture)
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
