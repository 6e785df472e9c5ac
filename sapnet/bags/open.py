"""Opens recordings of ROS 1 and ROS 2, whole or damaged: the one way in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sapnet.bags.metadata import METADATA
from sapnet.bags.recording import Recording, reading
from sapnet.bags.ros1 import open_ros1
from sapnet.bags.rosbag2 import open_rosbag2, storage_of
from sapnet.errors import BagError

ROS1_SUFFIXES = (".bag", ".bag.active")


@contextmanager
def open_recording(path: Path | str) -> Iterator[Recording]:
    """Open a rosbag2 folder, one of its files, or a ROS 1 bag.

    A recording that was not finished (no metadata.yaml, an mcap file without its end, a database whose log was not
    merged) is opened as far as it can be read. What has to be unpacked goes to a folder in TMPDIR until the recording
    is closed. Raises BagError.
    """
    path = Path(path)
    with ExitStack() as stack:
        with reading(path):
            if not path.exists():
                raise BagError(f"{path} does not exist; give a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
            if path.name.endswith(ROS1_SUFFIXES) and path.is_file():
                opened = open_ros1(path)
            else:
                scratch = TemporaryDirectory(prefix="sapnet_bag_", ignore_cleanup_errors=True)
                opened = open_rosbag2(path, Path(stack.enter_context(scratch)))
            recording = stack.enter_context(opened)
        yield recording


def is_recording(path: Path) -> bool:
    """Whether a path is a recording by its name or, for a folder, by what is in it: also an unfinished one."""
    if path.is_dir():
        return (path / METADATA).is_file() or any(storage_of(file) for file in path.iterdir())
    return is_recording_file(path)


def is_recording_file(path: Path) -> bool:
    """Whether a file is a recording, or one file of it, by its name alone."""
    return bool(storage_of(path)) or path.name.endswith(ROS1_SUFFIXES)
