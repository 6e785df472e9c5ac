"""Which frames share the next call of the network, and how long the first of them waits for others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from sapnet.derainer import Derainer
from sapnet_ros.camera import Camera
from sapnet_ros.inference import InHand
from sapnet_ros.mailbox import Received
from sapnet_ros.params import NodeParams

LIVE_S = 1.0  # a batch does not wait for a camera that was silent for longer
CALLS = 10  # that tell how long the next one may take
# So much longer may a call take than the longest of those, for a result in time.
MARGIN, MARGIN_S = 1.25, 0.005


class Batching:
    """Frames of equal size share a call; the camera that was derained last comes last."""

    def __init__(self, cameras: Mapping[str, Camera]) -> None:
        self._cameras = cameras
        self._turns = list(cameras)
        self._calls_s: deque[float] = deque([0.0], maxlen=CALLS)

    @property
    def turns(self) -> tuple[str, ...]:
        """The names of the cameras, the one whose turn it is first."""
        return tuple(self._turns)

    def group(self, in_hand: Mapping[str, InHand]) -> list[InHand]:
        """Of the frames in hand, those that would share the next call."""
        held = [in_hand[name] for name in self._turns if name in in_hand]
        return [one for one in held if one.size == held[0].size]

    def may_join(self, frame: Received, in_hand: Iterable[InHand], derainer: Derainer | None) -> bool:
        """Whether a frame would start a batch, or may join the one that gathers."""
        gathered = list(in_hand)
        if not gathered:
            return True
        size = gathered[0].size
        declared = frame.declared_size or size
        return derainer is not None and declared == size and derainer.is_ready(*size, batch=len(gathered) + 1)

    def wait_until_s(
        self,
        group: Sequence[InHand],
        derainer: Derainer,
        now_s: float,
        params: NodeParams,
        due_s: Callable[[Received], float],
    ) -> float:
        """Until when a group waits for frames of other cameras; not after ``now_s`` if it does not.

        due_s: when a frame's deadline is; one that is in a hurry does not wait for others.
        """
        names = {held.frame.camera for held in group}
        call_s = MARGIN * max(self._calls_s) + MARGIN_S
        until_s = min(held.frame.received_s for held in group) + params.batch_wait_ms / 1000
        until_s = min(until_s, *(due_s(held.frame) - call_s for held in group))
        others = [camera for name, camera in self._cameras.items() if name not in names]
        size = group[0].size
        worth_it = (
            now_s < until_s
            and any(_may_come(camera, size, until_s, now_s, params) for camera in others)
            and derainer.is_ready(*size, batch=len(group) + 1)
        )
        return until_s if worth_it else now_s

    def note_started(self, group: Iterable[InHand]) -> None:
        """A group is on its way through the network."""
        for held in group:
            self._turns.remove(held.frame.camera)
            self._turns.append(held.frame.camera)

    def note_ended(self, call_s: float) -> None:
        """A call has taken so long."""
        self._calls_s.append(call_s)


def _may_come(camera: Camera, size: tuple[int, int], until_s: float, now_s: float, params: NodeParams) -> bool:
    """Whether a camera that is to be derained is likely to send a frame of this size before ``until_s``."""
    return (
        camera.size == size
        and camera.enabled
        and camera.stats.silent_s(now_s) < LIVE_S
        and camera.stats.expected_s < until_s
        and not camera.gate.passes(now_s, params.gate)
    )
