"""Every parameter of the node, once: default, meaning, what is allowed, when it may change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sapnet.backends import BACKENDS
from sapnet.backends.base import PRECISIONS
from sapnet.backends.fake import MODES
from sapnet.images.frame import MIN_SIDE
from sapnet.images.messages import OUTPUT_ENCODINGS
from sapnet.streaks import DEFAULT_MASK_THRESHOLD
from sapnet_ros.declarations import Declaration, ParameterError, choice, number, parameter, switch, text, texts
from sapnet_ros.gate import GateSettings

Size = tuple[int, int]  # height, width

_TAKEN = ("backend", "process")  # the other statuses in the diagnostics


def _camera_names(value: Any) -> tuple[str, ...]:
    names = texts(value)
    allowed = all(re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", name) and name not in _TAKEN for name in names)
    if len(set(names)) != len(names) or not allowed:
        raise ValueError
    return names


def _sizes(value: Any) -> tuple[Size, ...]:
    matches = [re.fullmatch(r"(\d{1,5})x(\d{1,5})", size) for size in texts(value)]
    sizes = tuple((int(match[1]), int(match[2])) for match in matches if match)
    if len(sizes) != len(matches) or any(min(size) < MIN_SIDE for size in sizes):
        raise ValueError
    return sizes


@dataclass(frozen=True)
class NodeParams:
    """A checked, frozen snapshot of all parameters, in the order of the documentation."""

    cameras: tuple[str, ...] = parameter(
        None,
        "Camera names; every topic then stands under <camera>/. Unset: one camera, no prefix.",
        _camera_names,
        "unset, or unique names of letters, digits and single underscores between them that start with a letter, "
        f"but not {' or '.join(_TAKEN)}",
    )
    image_transport: str = choice("raw", ("raw", "compressed"), "Subscribe to `image` or to `image/compressed`.")
    weights: str = text("sapnet_fast", "Preset with shipped weights, or path of a checkpoint.", "a preset or a path")
    backend: str = choice("auto", BACKENDS, "What runs the network.")
    device: str = text("auto", "Processor that the backend uses.", "auto, cpu, cuda or cuda:N")
    precision: str = choice("auto", PRECISIONS, "Arithmetic of the network.")
    stages: int = number(0, 0, 12, "Recurrences of the network, fewer for speed; 0: the preset's.", changes="live")
    warmup_sizes: tuple[Size, ...] = parameter(
        None,
        "Frame sizes to prepare at start. Unset: from camera_info or the first frame.",
        _sizes,
        "unset, or sizes as HEIGHTxWIDTH of at least 16x16, such as 720x1280",
    )
    enabled: bool = switch(True, "Whether frames are derained; if not, they pass through.", changes="live")
    output_encoding: str = choice(
        "bgr8", OUTPUT_ENCODINGS, "Encoding of derained/image; `same` follows the input where it is an 8-bit format."
    )
    publish_compressed: bool = switch(False, "Whether derained/image/compressed is published too.")
    jpeg_quality: int = number(95, 1, 100, "Quality of derained/image/compressed.")
    mask_threshold: int = number(
        DEFAULT_MASK_THRESHOLD, 0, 255, "Luma taken out of a pixel above which the mask marks it.", changes="live"
    )
    mask_mode: str = choice(
        "binary", ("binary", "soft"), "Streak mask of 0 and 255, or of strength 0 to 255.", changes="live"
    )
    steadiness: float = number(
        0.0,
        0.0,
        0.9,
        "Share of the last derained frame that is blended in where the two differ little, against flicker; 0: none.",
        changes="live",
    )
    deadline_ms: int = number(
        0, 0, 60000, "Time from receipt after which the original goes out; 0: off.", changes="live"
    )
    hang_timeout_s: float = number(
        10.0, 0.1, 3600.0, "Duration of a backend's call that counts as hung.", changes="live"
    )
    on_failure: str = choice(
        "passthrough", ("passthrough", "drop"), "What becomes of a frame that cannot be derained.", changes="live"
    )
    on_overload: str = choice(
        "drop", ("drop", "passthrough"), "What becomes of a frame that a newer one has overtaken.", changes="live"
    )
    batch_wait_ms: int = number(5, 0, 1000, "Longest wait for other cameras' frames of equal size.", changes="live")
    rain_gate_enabled: bool = switch(
        False,
        "Whether dry frames pass through without running the network.",
        changes="live",
        name="rain_gate.enabled",
    )
    rain_gate_probe_period_s: float = number(
        1.0,
        0.0,
        3600.0,
        "Time between two frames that are looked at while it is dry.",
        changes="live",
        name="rain_gate.probe_period_s",
    )
    rain_gate_on_threshold: float = number(
        0.015, 0.0, 1.0, "Rain score from which it rains.", changes="live", name="rain_gate.on_threshold"
    )
    rain_gate_off_threshold: float = number(
        0.012,
        0.0,
        1.0,
        "Rain score below which it is dry, where it stays there for rain_gate.hold_s.",
        changes="live",
        name="rain_gate.off_threshold",
    )
    rain_gate_hold_s: float = number(
        5.0, 0.0, 3600.0, "How long it must look dry before it is.", changes="live", name="rain_gate.hold_s"
    )
    silent_after_s: float = number(
        5.0,
        0.1,
        3600.0,
        "Silence of a camera that is an ERROR in the diagnostics.",
        changes="live",
        name="diagnostics.silent_after_s",
    )
    missed_in_row: int = number(
        20,
        1,
        1000000,
        "Missed deadlines in a row that are an ERROR in the diagnostics.",
        changes="live",
        name="diagnostics.missed_in_row",
    )
    build_silent_after_s: float = number(
        600.0,
        1.0,
        86400.0,
        "Loading or compiling without news for so long is an ERROR in the diagnostics.",
        changes="live",
        name="diagnostics.build_silent_after_s",
    )
    max_pixels: int = number(33177600, 256, 2**31 - 1, "Largest frame, in pixels, that is decoded.")
    cache_dir: str = text("", "Folder of compiled engines; empty: the user's cache folder.", "a folder's path or empty")
    engine: str = text("", "Engine file built ahead of time; empty: none.", "a path or empty")
    autostart: bool = switch(True, "Whether the node configures and activates itself.", changes="read-only")
    fake_latency_ms: float = number(0.0, 0.0, 60000.0, "Backend `fake`: duration of a call.", name="fake.latency_ms")
    fake_fail_every: int = number(
        0, 0, 1000000, "Backend `fake`: every Nth call fails; 0: none.", name="fake.fail_every"
    )
    fake_build_s: float = number(
        0.0, 0.0, 3600.0, "Backend `fake`: duration of building an engine.", name="fake.build_s"
    )
    fake_mode: str = choice("identity", MODES, "Backend `fake`: behaviour.", name="fake.mode")

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> NodeParams:
        """From values by ROS name; raises ParameterError for the first that is not allowed."""
        params = cls(*(declaration.check(values[declaration.name]) for declaration in PARAMETERS))
        if params.rain_gate_off_threshold > params.rain_gate_on_threshold:
            raise ParameterError(
                "parameter 'rain_gate.off_threshold' must not be above 'rain_gate.on_threshold', "
                f"got {params.rain_gate_off_threshold:g} and {params.rain_gate_on_threshold:g}; set both at once"
            )
        too_large = [f"{height}x{width}" for height, width in params.warmup_sizes if height * width > params.max_pixels]
        if too_large:
            raise ParameterError(
                f"parameter 'warmup_sizes' must have no more than 'max_pixels' each, got {', '.join(too_large)} "
                f"and {params.max_pixels}; set both at once"
            )
        return params

    @cached_property
    def gate(self) -> GateSettings:
        """``rain_gate.*``."""
        return GateSettings(
            self.rain_gate_enabled,
            self.rain_gate_probe_period_s,
            self.rain_gate_on_threshold,
            self.rain_gate_off_threshold,
            self.rain_gate_hold_s,
        )


def _declaration(attribute: str, name: str, *rest: Any) -> Declaration:
    return Declaration(name or attribute, *rest)


PARAMETERS: tuple[Declaration, ...] = tuple(
    _declaration(f.name, *f.metadata["declaration"]) for f in fields(NodeParams)
)
"""All parameters, in the order of NodeParams."""

BY_NAME: Mapping[str, Declaration] = {declaration.name: declaration for declaration in PARAMETERS}


def declare(node: Node) -> dict[str, str]:
    """Declare all parameters. A refused override leaves the default in place.

    Returns the refusals, name to reason: the node stays alive to say so, and does not configure.
    """
    refused: dict[str, str] = {}
    for declaration in PARAMETERS:
        descriptor = declaration.descriptor()
        try:
            declaration.check(node.declare_parameter(declaration.name, declaration.default, descriptor).value)
            continue
        except ParameterError as err:
            refused[declaration.name] = str(err)
            if descriptor.read_only:
                continue  # rclpy takes it back no more
            node.undeclare_parameter(declaration.name)
        except (InvalidParameterTypeException, InvalidParameterValueException) as err:
            refused[declaration.name] = f"parameter {declaration.name!r} must be {declaration.allowed}: {err}"
        node.declare_parameter(declaration.name, declaration.default, descriptor, ignore_override=True)
    return refused


def current(node: Node, changes: Iterable[Parameter] = ()) -> NodeParams:
    """What the node holds now, with ``changes`` on top. Raises ParameterError."""
    values = {declaration.name: node.get_parameter(declaration.name).value for declaration in PARAMETERS}
    return NodeParams.check(values | {change.name: change.value for change in changes if change.name in BY_NAME})


def refusal(node: Node, changes: Iterable[Parameter], configured: bool) -> str:
    """Why ``changes`` may not be made now; empty if they may. Parameters that are not ours are not judged."""
    known = [change for change in changes if change.name in BY_NAME]
    if not known:
        return ""
    for change in known:
        # rclpy would undeclare it, and every later change would fail for the missing one.
        if change.type_ == Parameter.Type.NOT_SET:
            return f"parameter {change.name!r} cannot be deleted"
    try:
        current(node, known)
    except ParameterError as err:
        return str(err)
    for change in known:
        fixed = configured and BY_NAME[change.name].changes != "live"
        if fixed and change.value != node.get_parameter(change.name).value:
            return f"parameter {change.name!r} needs a reconfigure: deactivate and clean up the node first"
    return ""
