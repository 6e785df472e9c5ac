"""What sapnet bag costs beside the network: speed against the bare Derainer, and memory of short and long recordings.

    python benchmarks/bags.py --backend openvino --size 360x640 --frames 60
    python benchmarks/bags.py --memory 200 2000

Speed: the same frames, already decoded, through the Derainer, and as a recording through derain_bag, by turns in one
run. Memory: the peak of a process that derains a recording of so many frames with the fake backend.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from sapnet import Derainer
from sapnet.bags.derain import derain_bag
from sapnet.commands.common import parse_positive, parse_shape
from sapnet.rain import RainSynthesizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from bag_builders import FRAME_NS, START_NS, compressed, image, write_bag

KINDS = {"raw": image, "compressed": compressed}


def rainy_frames(height: int, width: int, count: int) -> list[np.ndarray]:
    """Blurred noise in motion, in heavy rain: what it shows does not matter to the speed."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width + count, 3), np.uint8)
    ground = cv2.GaussianBlur(noise, (0, 0), 6)
    rain = RainSynthesizer("heavy", height, width, seed=1)
    return [rain.add(np.ascontiguousarray(ground[:, i : i + width]), i)[0] for i in range(count)]


def write_recording(path: Path, frames: list[np.ndarray], count: int, transport: str, storage: str = "mcap") -> None:
    """``count`` images, the frames over and over."""
    topic = "/camera/image_raw" + ("/compressed" if transport == "compressed" else "")
    sent = (KINDS[transport](topic, START_NS + n * FRAME_NS, frames[n % len(frames)]) for n in range(count))
    write_bag(path, sent, storage)


def speed(args: argparse.Namespace, folder: Path) -> None:
    frames = rainy_frames(*args.size, args.frames)
    for transport in KINDS:
        write_recording(folder / transport, frames, args.frames, transport)
    seconds: dict[str, list[float]] = {"Derainer": [], **{transport: [] for transport in KINDS}}
    with Derainer(args.weights, backend=args.backend) as derainer:
        derainer(frames[:1])
        for turn in range(args.turns):
            begin = time.perf_counter()
            for frame in frames:
                derainer([frame])
            seconds["Derainer"].append(time.perf_counter() - begin)
            for transport in KINDS:
                begin = time.perf_counter()
                derain_bag(derainer, folder / transport, folder / f"{transport}_{turn}")
                seconds[transport].append(time.perf_counter() - begin)
        network = f"{derainer.backend_name} {derainer.precision}"
    print(f"{args.size[0]}x{args.size[1]}, {network}, {args.frames} frames, median of {args.turns} turns")
    for name, times in seconds.items():
        ratio = median(one / other for one, other in zip(seconds["Derainer"], times, strict=True))
        print(f"  {name:<12} {args.frames / median(times):7.2f} frames/s   {ratio:5.2f} of the Derainer's")


def memory(args: argparse.Namespace, folder: Path) -> None:
    frames = rainy_frames(*args.size, 20)
    print(f"{args.size[0]}x{args.size[1]}, fake backend: peak memory of the process")
    for storage in ("mcap", "sqlite3"):
        for count in args.memory:
            source = folder / f"{storage}_{count}"
            write_recording(source, frames, count, "raw", storage)
            command = [sys.executable, __file__, "--child", str(source), str(folder / f"{storage}_{count}_out")]
            peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"  {storage:<8} {count:6} frames: {peak / 1024:6.1f} MB")


def child(source: Path, output: Path) -> None:
    with Derainer(backend="fake") as derainer:
        derain_bag(derainer, source, output)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--weights", default="sapnet_fast")
    parser.add_argument("--size", type=parse_shape, default=(360, 640))
    parser.add_argument("--frames", type=parse_positive, default=60)
    parser.add_argument("--turns", type=parse_positive, default=3)
    parser.add_argument("--memory", type=parse_positive, nargs="*", help="measure memory for these numbers of frames")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    with TemporaryDirectory() as folder:
        (memory if args.memory else speed)(args, Path(folder))


if __name__ == "__main__":
    main()
