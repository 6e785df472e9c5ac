"""What the demo plays: a picture, a folder of pictures, a video, or the first colour camera of a recording."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sapnet.bags.cameras import contents, find_cameras
from sapnet.bags.frames import decode
from sapnet.bags.open import is_recording, open_recording
from sapnet.errors import BagError
from sapnet.images.frame import Frame
from sapnet.media.sources import FrameSource, open_source


def open_input(path: Path) -> FrameSource:
    """Open what a path names. Raises SapnetError."""
    return _open_recording(path) if is_recording(path) else open_source(path)


def _open_recording(path: Path) -> FrameSource:
    with open_recording(path) as bag:
        cameras = find_cameras(bag)
        if not cameras:
            raise BagError(f"{path} has no color camera. {contents(bag)}")
        topic = cameras[0].topic
        seconds = (bag.end_ns - 1 - bag.start_ns) / 1e9
    fps = (topic.count - 1) / seconds if topic.count > 1 and seconds > 0 else None
    return FrameSource(path, fps, topic.count, partial(_frames, path))


def _frames(path: Path) -> Iterator[tuple[str, Frame]]:
    with open_recording(path) as bag:
        for index, recorded in enumerate(bag.messages([find_cameras(bag)[0].topic])):
            yield f"{index:06d}", decode(recorded, None).decoded.bgr
        if bag.missing:
            raise BagError(f"{path} can be read only in part: {'; '.join(bag.missing)}")
