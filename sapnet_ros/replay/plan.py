"""How to run derain_node on the cameras of a recording: parameters, remap rules, arguments of the processes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sapnet.bags import Recording
from sapnet.bags.cameras import Camera, find_cameras
from sapnet.bags.types import deserialize
from sapnet.errors import BagError, ImageFormatError
from sapnet.images.frame import MIN_SIDE
from sapnet.images.messages import image_size
from sapnet.images.topics import DERAINED_COMPRESSED, DERAINED_INFO, OUTPUTS, RECORDED
from sapnet_ros.params import TAKEN

# Topics beside the derained image follow its remap.
REMAPPED = tuple(output.name for output in OUTPUTS if output not in (DERAINED_COMPRESSED, DERAINED_INFO))
# Of the recorded drive; derain_node publishes its own.
NODE_TOPICS = ("/diagnostics", "/derain_node/ready")
READY = "derain_node/ready"
# Exit statuses of publisher and recorder.
EXIT_FAILED, EXIT_INPUT = 1, 2
RECORDER_READY, RECORDER_STATUS = "recorder/ready", "recorder/recorded"
# Frames of a camera that are read ahead for their sizes, without lockstep.
LOOKED_AT = 20
# The network is compiled for each.
MAX_SIZES = 16


@dataclass(frozen=True, eq=False)
class Plan:
    """derain_node for the cameras of one recording.

    cameras: by their names in the node; empty for the only one. sizes: of their frames, for ``warmup_sizes``.
    """

    source: Recording
    cameras: dict[str, Camera]
    sizes: tuple[str, ...]
    lockstep: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that the node must have."""
        transport = "compressed" if any(camera.compressed for camera in self.cameras.values()) else "raw"
        names = [name for name in self.cameras if name]
        fixed = {"image_transport": transport, "use_sim_time": True}
        # Only frames of a single backend are reproducible.
        return fixed | ({"cameras": names} if names else {}) | ({"stand_in": False} if self.lockstep else {})

    @property
    def remaps(self) -> list[tuple[str, str]]:
        """Remap rules for the node, and for subscribers that use its topic names."""
        rules = []
        for name, camera in self.cameras.items():
            prefix, topic = f"{name}/" if name else "", camera.topic.name
            image = topic.removesuffix("/compressed") if camera.compressed else topic
            rules.append((f"{prefix}image", image))
            if camera.compressed and image == topic:  # named otherwise than image_transport does
                rules.append((f"{topic}/compressed", topic))
            rules += [(prefix + output, camera.output(output)) for output in REMAPPED]
        return rules

    def publisher_arguments(self, recorder: bool) -> list[str]:
        """Arguments of ``bag_publisher``. recorder: whether it must wait for one."""
        words = each("--camera", (camera.topic.name for camera in self.cameras.values()))
        words += each("--exclude", self.outputs) + each("--ready", [READY, RECORDER_READY] if recorder else [READY])
        # In lockstep the recorder answers for the node, once it has written all that came with a frame.
        return [*words, *(["--lockstep", "--status", RECORDER_STATUS] if self.lockstep else [])]

    def recorder_arguments(self) -> list[str]:
        """Arguments of ``bag_recorder``."""
        without_info = [name for name, camera in self.cameras.items() if camera.info is None or not camera.info.count]
        words = each("--camera", self.cameras) + each("--without-info", without_info)
        return [*words, *self.remap_arguments(), "-p", "use_sim_time:=true"]

    def remap_arguments(self) -> list[str]:
        """The node's remap rules as ROS arguments."""
        return ["--ros-args", *each("-r", [f"{old}:={new}" for old, new in self.remaps])]

    @property
    def outputs(self) -> list[str]:
        """The node's topics, which a recording may hold from an earlier run."""
        return [*NODE_TOPICS, *(camera.output(output.name) for camera in self.cameras.values() for output in OUTPUTS)]

    def plain(self, recorder: bool) -> dict[str, Any]:
        """How node, publisher and recorder are started, for JSON. recorder: whether there is one."""
        source = self.source
        return {
            "parameters": self.parameters,
            "warmup_sizes": self.sizes,
            "remaps": self.remaps,
            "bag_publisher": self.publisher_arguments(recorder or self.lockstep),
            "bag_recorder": self.recorder_arguments(),
            "cameras": [camera.topic.name for camera in self.cameras.values()],
            "played": sorted({topic.name for topic in source.topics} - set(self.outputs) - {"/clock"}),
            "recorded": [camera.output(output.name) for camera in self.cameras.values() for output in RECORDED],
            "ros2bag_reads_it": source.storage != "ros1" and not source.notes,
        }


def make_plan(source: Recording, wanted: Sequence[str] = (), lockstep: bool = False) -> Plan:
    """Plan for the cameras with these topics, or all color cameras.

    lockstep: find the sizes of all frames, not only of the first ones, and wait for engines, so that no result depends
    on what is ready when a frame comes.
    Raises BagError if there is no camera, if one derain_node cannot serve all, or if no frame can be read.
    """
    cameras = find_cameras(source, wanted)
    if len({camera.compressed for camera in cameras}) > 1:
        kinds = ", ".join(f"{c.topic.name} ({'compressed' if c.compressed else 'raw'})" for c in cameras)
        raise BagError(
            f"{source.path} has raw and compressed cameras, and a derain_node takes one transport: {kinds}; "
            "choose those of one with --topic"
        )
    sizes = [size for camera in cameras for size in _sizes(source, camera, None if lockstep else LOOKED_AT)]
    known = list(dict.fromkeys(size for size in sizes if min(size) >= MIN_SIDE))[:MAX_SIZES]
    if not known:
        names = ", ".join(camera.topic.name for camera in cameras)
        raise BagError(f"{source.path} holds no frame of at least {MIN_SIDE}x{MIN_SIDE} that can be read on {names}")
    named = dict(zip(_names(cameras), cameras, strict=True))
    return Plan(source, named, tuple(f"{height}x{width}" for height, width in known), lockstep)


def each(option: str, values: Iterable[str]) -> list[str]:
    """The option before each value."""
    return [word for value in values for word in (option, value)]


def _sizes(source: Recording, camera: Camera, count: int | None) -> Iterator[tuple[int, int]]:
    """Height and width of the readable ones of the first ``count`` frames, or of all."""
    for recorded in islice(source.messages([camera.topic]), count):
        try:
            yield image_size(deserialize(recorded.data, camera.topic.type), camera.compressed)
        except (ValueError, ImageFormatError):
            continue


def _names(cameras: Sequence[Camera]) -> list[str]:
    """Names that the node's parameter ``cameras`` allows, from the namespaces of the outputs."""
    if len(cameras) == 1:
        return [""]
    names: list[str] = []
    for camera in cameras:
        name = re.sub(r"[^A-Za-z0-9]+", "_", camera.namespace).strip("_")
        name = name if name[:1].isalpha() else f"camera_{name}".rstrip("_")
        while name in (*names, *TAKEN):
            name += "_2"
        names.append(name)
    return names
