"""Image quality and streak masks on folders of image pairs: ``python -m training.evaluate --data FOLDER...``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from sapnet import Derainer
from sapnet.errors import ImageFormatError, SapnetError
from sapnet.streaks import DEFAULT_MASK_THRESHOLD
from training.metrics import Image, MaskCounts, psnr_y, ssim_y, true_streaks

COLUMNS = ("psnr_rainy", "ssim_rainy", "psnr", "ssim", "precision", "recall", "f1", "matthews", "f1_all_ones")


def evaluate(derainer: Derainer, folder: Path) -> dict[str, float]:
    """Figures of the pairs in ``folder``: means of PSNR (dB) and SSIM on Y over images, mask figures over all pixels.

    folder: ``rainy/`` and ``clean/`` hold images of equal names, the endings aside.
    Raises ImageFormatError for a folder that has no such pairs.
    """
    quality = []
    masks = MaskCounts()
    for rainy_path, clean_path in _pairs(folder):
        rainy, clean = _read(rainy_path), _read(clean_path)
        derained = derainer([rainy])[0]
        quality.append([score(image, clean) for image in (rainy, derained.image) for score in (psnr_y, ssim_y)])
        masks += MaskCounts.of(derained.streak_mask > 0, true_streaks(rainy, clean))
    figures = (*np.mean(quality, axis=0), masks.precision, masks.recall, masks.f1, masks.matthews, masks.f1_all_ones)
    return {"images": len(quality), **{name: float(figure) for name, figure in zip(COLUMNS, figures, strict=True)}}


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    clean = {path.stem: path for path in (folder / "clean").glob("*")}
    rainy = sorted((folder / "rainy").glob("*"))
    if not rainy:
        raise ImageFormatError(f"{folder}: no images in its folder rainy; expected rainy/ and clean/ of equal names")
    if lonely := [path for path in rainy if path.stem not in clean]:
        raise ImageFormatError(f"{lonely[0]}: no clean image of that name in {folder / 'clean'}")
    return [(path, clean[path.stem]) for path in rainy]


def _read(path: Path) -> Image:
    image = cv2.imread(str(path))
    if image is None:
        raise ImageFormatError(f"{path}: not an image that OpenCV reads", kind="decode")
    return image  # type: ignore[return-value]


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--data", nargs="+", required=True, type=Path, help="folders with rainy/ and clean/")
    parser.add_argument("--weights", default="sapnet_fast", help="preset or path (default: %(default)s)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32", help="default: %(default)s")
    parser.add_argument("--mask-threshold", type=int, default=DEFAULT_MASK_THRESHOLD, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    try:
        with Derainer(
            args.weights, args.backend, precision=args.precision, mask_threshold=args.mask_threshold
        ) as derainer:
            report = {str(folder): evaluate(derainer, folder) for folder in args.data}
    except (SapnetError, ValueError) as err:
        print(f"evaluate: {err}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=2) if args.json else _table(report))
    return 0


def _table(report: dict[str, dict[str, float]]) -> str:
    lines = [" ".join(f"{name:>11}" for name in ("images", *COLUMNS)) + "  data"]
    for folder, figures in report.items():
        cells = (f"{figures['images']:11.0f}", *(f"{figures[name]:11.3f}" for name in COLUMNS))
        lines.append(" ".join(cells) + f"  {folder}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
