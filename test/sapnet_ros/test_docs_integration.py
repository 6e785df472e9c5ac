"""The code in docs/integration.md, run."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

from live import ROOT, NodeProcess, Peer, image, wait_for

SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/integration.md").read_text(), re.MULTILINE | re.DOTALL)


def test_python_in_the_document_parses() -> None:
    assert SNIPPETS
    for snippet in SNIPPETS:
        compile(snippet, "docs/integration.md", "exec")


def test_frame_mask_and_calibration_come_together(
    peer: Peer, start_process: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    pytest.importorskip(
        "message_filters", reason="needs message_filters: source ROS 2, or put its src on PYTHONPATH; it is pure Python"
    )
    (snippet,) = (text for text in SNIPPETS if "message_filters" in text)
    consumer_file, output = tmp_path / "consumer.py", tmp_path / "output.txt"
    consumer_file.write_text(snippet)
    start_process()
    with output.open("w") as file:
        consumer = subprocess.Popen([sys.executable, str(consumer_file)], stdout=file, stderr=file)
    try:
        images, infos = peer.publisher(Image, "image"), peer.publisher(CameraInfo, "camera_info")
        derained = ("/derained/image", "/streak_mask/image", "/derained/camera_info")
        wait_for(lambda: all(map(peer.node.count_subscribers, derained)), "the consumer to subscribe")
        sent = []

        def came() -> list[str]:
            sent.append(1000 + len(sent))
            message = image(np.zeros((48, 64, 3), np.uint8), sent[-1])
            infos.publish(CameraInfo(header=message.header, height=48, width=64))
            images.publish(message)
            time.sleep(0.1)
            return output.read_text().splitlines()

        first = wait_for(came, "a frame with its mask and calibration")[0]
        stamp, *rest = first.split()
        assert rest == ["bgr8", "mono8", "64x48"]
        assert round(float(stamp) * 1000) in sent
    finally:
        consumer.kill()
        consumer.wait()
