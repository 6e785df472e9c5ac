"""Every parameter of the node, once: default, meaning, what is allowed, when it may change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sapnet.backends import BACKENDS
from sapnet.backends.base import PRECISIONS
from sapnet.backends.fake import MODES
from sapnet.image import MIN_SIDE
from sapnet.messages import OUTPUT_ENCODINGS
from sapnet.streaks import DEFAULT_MASK_THRESHOLD

Size = tuple[int, int]  # height, width


class ParameterError(ValueError):
    """A parameter's value is not allowed; says which, what was got and what is allowed."""


@dataclass(frozen=True)
class Declaration:
    """One parameter. ``default`` None means unset; ``changes`` is ``live``, ``configure`` or ``read-only``.

    ``effective`` is False for a parameter of the public contract that this version accepts and does not act on.
    """

    name: str
    default: Any
    description: str
    convert: Callable[[Any], Any]
    allowed: str
    changes: str
    effective: bool
    bounds: tuple[float, float] | None

    def check(self, value: Any) -> Any:
        """The value as NodeParams holds it. Raises ParameterError."""
        try:
            return self.convert(value)
        except (TypeError, ValueError) as err:
            raise ParameterError(f"parameter {self.name!r} must be {self.allowed}, got {value!r}") from err

    def descriptor(self) -> ParameterDescriptor:
        """For ``ros2 param describe``. Typing is dynamic because rclpy kills a node whose double is given as ``1``."""
        descriptor = ParameterDescriptor(
            description=f"{self.description} Changes: {self.changes}.",
            additional_constraints=self.allowed,
            read_only=self.changes == "read-only",
            dynamic_typing=True,
        )
        if self.bounds and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.bounds[0], to_value=self.bounds[1])]
        elif self.bounds:
            low, high = int(self.bounds[0]), int(self.bounds[1])
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


def _parameter(
    default: Any,
    description: str,
    convert: Callable[[Any], Any],
    allowed: str,
    *,
    changes: str = "configure",
    effective: bool = True,
    bounds: tuple[float, float] | None = None,
    name: str = "",
) -> Any:
    """A field of NodeParams that is a ROS parameter; ``name`` where the ROS name is not the field's."""
    return field(metadata={"declaration": (name, default, description, convert, allowed, changes, effective, bounds)})


def _choice(default: str, choices: tuple[str, ...], description: str, **more: Any) -> Any:
    def convert(value: Any) -> str:
        if str(value) not in choices:  # as text, for YAML reads the choice `nan` as a number
            raise ValueError
        return str(value)

    return _parameter(default, description, convert, f"one of {', '.join(choices)}", **more)


def _number(default: float, low: float, high: float, description: str, **more: Any) -> Any:
    kind = type(default)

    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError
        if kind is int and value != int(value):
            raise ValueError
        return kind(value)

    allowed = f"{'a whole number' if kind is int else 'a number'} from {low:.12g} to {high:.12g}"
    return _parameter(default, description, convert, allowed, bounds=(low, high), **more)


def _switch(default: bool, description: str, **more: Any) -> Any:
    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    return _parameter(default, description, convert, "true or false", **more)


def _text(default: str, description: str, allowed: str, **more: Any) -> Any:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or (default and not value):
            raise TypeError
        return value

    return _parameter(default, description, convert, allowed, **more)


def _texts(value: Any) -> tuple[str, ...]:
    """An array of strings; a lone string, which is one of letters to Python, is not."""
    if isinstance(value, str):
        raise TypeError
    return tuple(value or ())


def _camera_names(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    if len(set(names)) != len(names) or not all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) for name in names):
        raise ValueError
    return names


def _sizes(value: Any) -> tuple[Size, ...]:
    matches = [re.fullmatch(r"(\d{1,5})x(\d{1,5})", text) for text in _texts(value)]
    sizes = tuple((int(match[1]), int(match[2])) for match in matches if match)
    if len(sizes) != len(matches) or any(min(size) < MIN_SIDE for size in sizes):
        raise ValueError
    return sizes


@dataclass(frozen=True)
class NodeParams:
    """A checked, frozen snapshot of all parameters, in the order of the documentation."""

    cameras: tuple[str, ...] = _parameter(
        None,
        "Camera names; every topic then stands under <camera>/. Unset: one camera, no prefix.",
        _camera_names,
        "unset, or unique names of letters, digits and underscores that start with a letter",
    )
    image_transport: str = _choice("raw", ("raw", "compressed"), "Subscribe to `image` or to `image/compressed`.")
    weights: str = _text("sapnet_fast", "Preset with shipped weights, or path of a checkpoint.", "a preset or a path")
    backend: str = _choice("auto", BACKENDS, "What runs the network.")
    device: str = _text("auto", "Processor that the backend uses.", "auto, cpu, cuda or cuda:N")
    precision: str = _choice("auto", PRECISIONS, "Arithmetic of the network.")
    stages: int = _number(0, 0, 12, "Recurrences of the network, fewer for speed; 0: the preset's.", changes="live")
    warmup_sizes: tuple[Size, ...] = _parameter(
        None,
        "Frame sizes to prepare at start. Unset: from camera_info or the first frame.",
        _sizes,
        "unset, or sizes as HEIGHTxWIDTH of at least 16x16, such as 720x1280",
    )
    enabled: bool = _switch(True, "Whether frames are derained; if not, they pass through.", changes="live")
    output_encoding: str = _choice(
        "bgr8", OUTPUT_ENCODINGS, "Encoding of derained/image; `same` follows the input where it is an 8-bit format."
    )
    publish_compressed: bool = _switch(False, "Whether derained/image/compressed is published too.")
    jpeg_quality: int = _number(95, 1, 100, "Quality of derained/image/compressed.")
    mask_threshold: int = _number(
        DEFAULT_MASK_THRESHOLD, 0, 255, "Luma taken out of a pixel above which the mask marks it.", changes="live"
    )
    mask_mode: str = _choice(
        "binary", ("binary", "soft"), "Streak mask of 0 and 255, or of strength 0 to 255.", changes="live"
    )
    deadline_ms: int = _number(
        0, 0, 60000, "Time from receipt after which the original goes out; 0: off.", changes="live", effective=False
    )
    hang_timeout_s: float = _number(
        10.0, 0.1, 3600.0, "Duration of a backend's call that counts as hung.", changes="live", effective=False
    )
    on_failure: str = _choice(
        "passthrough", ("passthrough", "drop"), "What becomes of a frame that cannot be derained.", changes="live"
    )
    on_overload: str = _choice(
        "drop", ("drop", "passthrough"), "What becomes of a frame that a newer one has overtaken.", changes="live"
    )
    batch_wait_ms: int = _number(
        5, 0, 1000, "Longest wait for other cameras' frames of equal size.", changes="live", effective=False
    )
    rain_gate_enabled: bool = _switch(
        False,
        "Whether dry frames pass through without running the network.",
        changes="live",
        effective=False,
        name="rain_gate.enabled",
    )
    max_pixels: int = _number(33177600, 256, 2**31 - 1, "Largest frame, in pixels, that is decoded.")
    cache_dir: str = _text(
        "", "Folder of compiled engines; empty: the user's cache folder.", "a folder's path or empty"
    )
    engine: str = _text("", "Engine file built ahead of time; empty: none.", "a path or empty")
    autostart: bool = _switch(True, "Whether the node configures and activates itself.", changes="read-only")
    fake_latency_ms: float = _number(0.0, 0.0, 60000.0, "Backend `fake`: duration of a call.", name="fake.latency_ms")
    fake_fail_every: int = _number(
        0, 0, 1000000, "Backend `fake`: every Nth call fails; 0: none.", name="fake.fail_every"
    )
    fake_build_s: float = _number(
        0.0, 0.0, 3600.0, "Backend `fake`: duration of building an engine.", name="fake.build_s"
    )
    fake_mode: str = _choice("identity", MODES, "Backend `fake`: behaviour.", name="fake.mode")

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> NodeParams:
        """From values by ROS name; raises ParameterError for the first that is not allowed."""
        return cls(*(declaration.check(values[declaration.name]) for declaration in PARAMETERS))

    def ineffective(self) -> list[str]:
        """Names of parameters that are set and that this version does not act on."""
        return [
            declaration.name
            for declaration, f in zip(PARAMETERS, fields(self), strict=True)
            if not declaration.effective and getattr(self, f.name) != declaration.default
        ]


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
