"""What runs on the nodes: a task per recording."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sapnet
from sapnet.bags.cameras import BagOptions
from sapnet.bags.derain import derain_bag
from sapnet.errors import BackendError, SapnetError
from sapnet.fleet.ledger import DONE, PARTIAL, Row, utc_now

if TYPE_CHECKING:
    from sapnet.derainer import Derainer

# Network storage may show a new file late.
_VISIBLE_WITHIN_S = 10.0
# Before an attempt that is not the first, doubled each time: storage that is away, or a lock that is held, comes back.
_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 60.0


class WorkerError(SapnetError):
    """A node, the first argument, cannot do this work at all: another version of sapnet, no shared storage, no backend.

    The second argument says why.
    """

    def __str__(self) -> str:
        return "{} cannot derain: {}".format(*self.args)


def derain_recording(
    row: Row, attempt: int, network: Mapping[str, Any], options: BagOptions, marker: Path, version: str
) -> Row:
    """Derain one recording, continuing what an earlier attempt has left, and return its row with the result.

    attempt: from 1. network: arguments of Derainer. marker: a file in the output folder, which every node must see.
    version: of sapnet on the machine that submits the tasks.
    Raises WorkerError, and what ``derain_bag`` raises.
    """
    import ray

    # Ray cancels a task by Ctrl-C's handler, which is missing where the cluster was started in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = utc_now()
    node = f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"
    if attempt > 1:
        time.sleep(min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** (attempt - 2)))
    if version != sapnet.__version__:
        raise WorkerError(node, f"it has sapnet {sapnet.__version__}, expected {version}; install that there")
    until_s = time.monotonic() + _VISIBLE_WITHIN_S
    while not marker.is_file():
        if time.monotonic() > until_s:
            raise WorkerError(node, f"{marker} is not visible there; put inputs and output on storage that all share")
        time.sleep(0.2)
    try:
        derainer = _derainer(json.dumps(network))
    except SapnetError as err:
        raise WorkerError(node, str(err)) from err
    output = Path(row.output)
    # What the first attempt left may be why the second one failed. Never replace what this package did not write.
    anew = attempt > 2 and not output.exists()
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        report = derain_bag(derainer, Path(row.input), output, options, resume=not anew, overwrite=anew)
    except BackendError:
        derainer.close()  # a device that has failed may go on failing until it is opened again
        _derainer.cache_clear()
        raise
    return replace(
        row,
        state=PARTIAL if report.is_partial else DONE,
        attempts=attempt,
        frames=report.frames,
        unreadable=sum(camera.unreadable for camera in report.cameras),
        messages=report.messages,
        seconds=round(report.seconds, 3),
        node=node,
        notes=report.notes,
        started=started,
        ended=utc_now(),
    )


@lru_cache(maxsize=1)
def _derainer(arguments: str) -> Derainer:
    """The Derainer for these arguments as JSON, kept from one task to the next."""
    from sapnet.derainer import Derainer

    return Derainer(**json.loads(arguments))
