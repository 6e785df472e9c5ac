"""What the node costs without a network: ``python benchmarks/overhead.py`` prints a table.

From the entry of the callback that receives a frame to the return of the last publish, image and mask, with one
subscriber in another process; beside it, what copying the frame's bytes twice takes in the same run.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import rclpy
from cameras import CAMERAS, Watch, isolate, publish, reading, running_node

SHAPES = ((360, 640), (720, 1280), (1080, 1920))
PARTS = ("wait", "preprocess", "inference", "postprocess", "publish")


def copy_twice_ms(shape: tuple[int, int], times: int = 50) -> float:
    """Median duration of copying a frame's bytes twice."""
    frame, first, second = (np.ones((*shape, 3), np.uint8) for _ in range(3))
    seconds = []
    for _ in range(times):
        begin_s = time.perf_counter()
        np.copyto(first, frame)
        np.copyto(second, first)
        seconds.append(time.perf_counter() - begin_s)
    return 1e3 * float(np.median(seconds))


def measure(shape: tuple[int, int], count: int, rate: float, seconds: float) -> str:
    """A row of the table."""
    cameras = CAMERAS[:count]
    height, width = shape
    parameters = ("backend:=fake", f"cameras:=[{','.join(cameras)}]", f"warmup_sizes:=[{height}x{width}]")
    watch = Watch(cameras)
    with running_node(*parameters), reading(cameras):
        player = publish(cameras, shape, rate, seconds)
        while player.poll() is None:
            watch.spin_for(0.1)
        watch.spin_for(2.5)
    latencies = watch.latencies_ms[count * 5 :]
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    values = watch.statuses[cameras[0]]
    parts = " ".join(f"{float(values[f'{part}_ms_p50']):>11.2f}" for part in PARTS)
    watch.destroy_node()
    copies = copy_twice_ms(shape)
    return (
        f"{height}x{width:<5} {count:>7} {len(latencies):>7} {p50:>6.2f} {p95:>6.2f} {p99:>6.2f} {parts} {copies:>7.2f}"
    )


def main() -> None:
    """Measure every shape with one camera and with four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=5.0, help="of each camera, in Hz (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row (default: %(default)s)")
    args = parser.parse_args()
    isolate()
    rclpy.init()
    print(f"{'shape':>9} cameras  frames    p50    p95    p99 {' '.join(f'{part:>11}' for part in PARTS)} 2 copies")
    for shape in SHAPES:
        for count in (1, 4):
            print(measure(shape, count, args.rate, args.seconds), flush=True)
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
