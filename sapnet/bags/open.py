"""Opens recordings of ROS 1 and ROS 2, whole or damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from sapnet.bags.recording import InputError, Recording, why
from sapnet.bags.ros1 import open_ros1
from sapnet.bags.rosbag2 import open_rosbag2
from sapnet.bags.scratch import scratch_folder
from sapnet.errors import BagError


@contextmanager
def open_recording(path: Path | str) -> Iterator[Recording]:
    """Open a rosbag2 folder, one of its files, or a ROS 1 bag.

    A recording that was not finished (no metadata.yaml, an mcap file without its end, a truncated or not yet merged
    database) is opened as far as it goes; what has to be rebuilt goes to the temporary folder (TMPDIR).
    Raises BagError.
    """
    path = Path(path)
    with ExitStack() as stack:
        try:
            if not path.exists():
                raise BagError(f"{path} does not exist; give a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
            scratch = stack.enter_context(scratch_folder())
            source = stack.enter_context(_opener(path)(path, scratch))
        except (OSError, MemoryError) as err:
            raise InputError(f"{path} cannot be read ({why(err)}); check its rights, and TMPDIR") from err
        yield source


def _opener(path: Path) -> Callable[[Path, Path], AbstractContextManager[Recording]]:
    return open_ros1 if path.name.endswith((".bag", ".bag.active")) and path.is_file() else open_rosbag2
