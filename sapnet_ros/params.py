"""Every parameter of derain_node, once: default, meaning, allowed values, when a change takes effect.

    python -m sapnet_ros.params --write

writes config/derain.yaml and docs/parameters.md from it.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sapnet.backends import BACKENDS
from sapnet.backends.base import PRECISIONS
from sapnet.backends.fake import MODES
from sapnet.images.frame import MIN_SIDE
from sapnet.images.messages import OUTPUT_ENCODINGS
from sapnet.streaks import DEFAULT_MASK_THRESHOLD

Size = tuple[int, int]  # height, width

_GROUPS = ("rain_gate", "diagnostics", "fake")  # of parameters
_TAKEN = ("backend", "process")  # names of the other statuses in the diagnostics
_UNSET = (None, "", "null")  # rcl makes None of an empty array, and this text of YAML's null


class ParameterError(ValueError):
    """A parameter's value is not allowed; says which, what was got and what is allowed."""


@dataclass(frozen=True)
class Declaration:
    """One parameter. ``changes``: when a change takes effect: ``live``, ``configure`` or ``read-only``.

    example: a value to show where the default says nothing.
    """

    default: Any
    description: str
    convert: Callable[[Any], Any]
    allowed: str
    changes: str = "configure"
    bounds: tuple[float, float] | None = None
    name: str = ""
    example: str = ""

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


def _parameter(*args: Any, **more: Any) -> Any:
    """A field of NodeParams that is a ROS parameter."""
    return field(metadata={"declaration": lambda name: Declaration(*args, name=name, **more)})


def _ros_name(field_name: str) -> str:
    """``rain_gate.hold_s`` of ``rain_gate_hold_s``."""
    return re.sub(f"^({'|'.join(_GROUPS)})_", r"\1.", field_name)


def _choice(default: str, choices: tuple[str, ...], description: str, **more: Any) -> Any:
    def convert(value: Any) -> str:
        if str(value) not in choices:  # as text, for YAML reads the choice `nan` as a number
            raise ValueError
        return str(value)

    return _parameter(default, description, convert, f"one of {', '.join(choices)}", **more)


def _number(default: float, low: float, high: float, description: str, **more: Any) -> Any:
    """A number from ``low`` to ``high``, a whole one where ``default`` is."""
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
    """A text, which may be unset where ``default`` is empty."""

    def convert(value: Any) -> str:
        if not default and value in _UNSET:
            return ""
        if not isinstance(value, str) or not value:
            raise TypeError
        return value

    return _parameter(default, description, convert, allowed, **more)


def _texts(value: Any) -> tuple[str, ...]:
    """An array of strings; a lone string, which is one of letters to Python, is not."""
    if isinstance(value, str) and value not in _UNSET:
        raise TypeError
    return () if value in _UNSET else tuple(value)


def _camera_names(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    allowed = all(re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", name) and name not in _TAKEN for name in names)
    if len(set(names)) != len(names) or not allowed:
        raise ValueError
    return names


def _sizes(value: Any) -> tuple[Size, ...]:
    matches = [re.fullmatch(r"(\d{1,5})x(\d{1,5})", size) for size in _texts(value)]
    sizes = tuple((int(match[1]), int(match[2])) for match in matches if match)
    if len(sizes) != len(matches) or any(min(size) < MIN_SIDE for size in sizes):
        raise ValueError
    return sizes


@dataclass(frozen=True)
class NodeParams:
    """A checked, frozen snapshot of all parameters, in the order of the documentation."""

    cameras: tuple[str, ...] = _parameter(
        [],
        "Camera names; every topic but ~/ready and /diagnostics then stands under `<camera>/`. Empty: one camera, "
        "without a prefix.",
        _camera_names,
        "empty, or unique names of letters, digits and single underscores between them that start with a letter, "
        f"but not {' or '.join(_TAKEN)}",
        example="[front, rear]",
    )
    image_transport: str = _choice(
        "raw", ("raw", "compressed"), "Subscribe to `image` (raw) or to `image/compressed` (compressed)."
    )
    weights: str = _text(
        "sapnet_fast",
        "Preset that ships with the package, or path of a checkpoint (.safetensors, .pth).",
        "a preset or a path",
    )
    backend: str = _choice("auto", BACKENDS, "Backend that runs the network; fake is for tests.")
    device: str = _text("auto", "Device that the backend uses.", "auto, cpu, cuda or cuda:N")
    precision: str = _choice("auto", PRECISIONS, "Precision of the network's arithmetic.")
    stages: int = _number(
        0, 0, 12, "Stages of the network: fewer are faster. 0: as many as the preset has.", changes="live"
    )
    target_hz: float = _number(
        0.0,
        0.0,
        1000.0,
        "Frame rate of each camera to hold: the node measures the network and runs as many stages, up to `stages`, as "
        "leave 20 % of the time free. 0: off.",
        changes="live",
    )
    warmup_sizes: tuple[Size, ...] = _parameter(
        [],
        "Frame sizes to prepare at start, as HEIGHTxWIDTH. Empty: taken from camera_info or the first frame.",
        _sizes,
        "empty, or sizes as HEIGHTxWIDTH of at least 16x16, such as 720x1280",
        example="[720x1280]",
    )
    enabled: bool = _switch(True, "Derain frames; false: they pass through.", changes="live")
    lazy: bool = _switch(
        True, "Derain only while somebody subscribes to an output; else drop frames as unwatched.", changes="live"
    )
    input_bits: int = _number(
        0, 0, 16, "Bits that the camera uses of 16-bit samples, as in thermal images of 14 bits. 0: all 16."
    )
    output_encoding: str = _choice(
        "bgr8",
        OUTPUT_ENCODINGS,
        "Encoding of derained/image: bgr8, or the input's (same) if that is rgb8, bgr8, rgba8, bgra8, mono8 or mono16.",
    )
    publish_compressed: bool = _switch(False, "Publish derained/image/compressed too.")
    jpeg_quality: int = _number(95, 1, 100, "JPEG quality of derained/image/compressed.")
    mask_threshold: int = _number(
        DEFAULT_MASK_THRESHOLD,
        0,
        255,
        "Threshold of the streak mask: it marks pixels that lost more luma than this.",
        changes="live",
    )
    mask_mode: str = _choice(
        "binary",
        ("binary", "soft"),
        "Values of the streak mask: 0 and 255 (binary), or the streaks' strength from 0 to 255 (soft).",
        changes="live",
    )
    steadiness: float = _number(
        0.0,
        0.0,
        0.9,
        "Weight of the previous derained frame, blended in where the two differ little, against flicker. 0: off.",
        changes="live",
    )
    deadline_ms: int = _number(
        0, 0, 60000, "Time from receipt after which the original is published, in milliseconds. 0: off.", changes="live"
    )
    hang_timeout_s: float = _number(
        10.0, 0.1, 3600.0, "Time after which a call of the backend counts as hung, in seconds.", changes="live"
    )
    on_failure: str = _choice(
        "passthrough", ("passthrough", "drop"), "What to do with a frame that cannot be derained.", changes="live"
    )
    on_overload: str = _choice(
        "drop", ("drop", "passthrough"), "What to do with a frame that a newer one has overtaken.", changes="live"
    )
    batch_wait_ms: int = _number(
        5, 0, 1000, "Longest wait for other cameras' frames of equal size, in milliseconds.", changes="live"
    )
    rain_gate_enabled: bool = _switch(
        False, "In dry weather, pass frames through without running the network.", changes="live"
    )
    rain_gate_probe_period_s: float = _number(
        1.0, 0.0, 3600.0, "Time between two frames that are derained while it is dry, in seconds.", changes="live"
    )
    rain_gate_on_threshold: float = _number(0.015, 0.0, 1.0, "Rain score at which rain begins.", changes="live")
    rain_gate_off_threshold: float = _number(
        0.012, 0.0, 1.0, "Rain score below which it is dry after rain_gate.hold_s.", changes="live"
    )
    rain_gate_hold_s: float = _number(
        5.0, 0.0, 3600.0, "Time that the score must stay below rain_gate.off_threshold, in seconds.", changes="live"
    )
    diagnostics_silent_after_s: float = _number(
        5.0, 0.1, 3600.0, "Time without a frame after which a camera is reported as ERROR, in seconds.", changes="live"
    )
    diagnostics_missed_in_row: int = _number(
        20, 1, 1000000, "Number of consecutive missed deadlines that is reported as ERROR.", changes="live"
    )
    diagnostics_build_silent_after_s: float = _number(
        600.0,
        1.0,
        86400.0,
        "Time without progress in loading or building after which it is reported as ERROR, in seconds.",
        changes="live",
    )
    max_pixels: int = _number(33177600, 256, 2**31 - 1, "Pixels of the largest frame that is decoded.")
    cache_dir: str = _text("", "Folder of built engines. Empty: the user's cache folder.", "a folder's path or empty")
    stand_in: bool = _switch(
        True, "With backend auto, derain with CUDA torch while a TensorRT engine is built; false: wait for the engine."
    )
    engine: str = _text("", "Engine file that was built ahead of time. Empty: none.", "a path or empty")
    autostart: bool = _switch(
        True, "Configure and activate at start, without a lifecycle manager.", changes="read-only"
    )
    fake_latency_ms: float = _number(0.0, 0.0, 60000.0, "Backend fake: duration of a call, in milliseconds.")
    fake_fail_every: int = _number(0, 0, 1000000, "Backend fake: every Nth call fails. 0: none.")
    fake_build_s: float = _number(
        0.0, 0.0, 3600.0, "Backend fake: duration of an engine build, in seconds. 0: no build."
    )
    fake_mode: str = _choice("identity", MODES, "Backend fake: behavior.")

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


PARAMETERS: tuple[Declaration, ...] = tuple(f.metadata["declaration"](_ros_name(f.name)) for f in fields(NodeParams))
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
            value = declaration.check(node.declare_parameter(declaration.name, declaration.default, descriptor).value)
            if value == () or (value == "" and not descriptor.read_only):
                # An empty list is one of bytes to rclpy, and a null is no value: both are to be dumped as they were.
                kind = Parameter.Type.STRING_ARRAY if value == () else Parameter.Type.STRING
                node.set_parameters([Parameter(declaration.name, kind, declaration.default)])
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
        declaration, now = BY_NAME[change.name], node.get_parameter(change.name).value
        if configured and declaration.changes != "live" and declaration.check(change.value) != declaration.check(now):
            return (
                f"parameter {change.name!r} takes effect at the next configure: deactivate and clean up the node first"
            )
    return ""


YAML_HEAD = """\
# Every parameter of derain_node with its default. Nothing loads this file by itself: copy it, keep the lines that you
# change, and give your copy to the launch file (params_file:=...) or to the node (--ros-args --params-file ...).
#
# `/**:` matches a node of any name in any namespace; a bare node name would be ignored under a namespace.
# (live): a change takes effect at once, all others at the next configure.
#
# Written by python -m sapnet_ros.params --write
/**:
  ros__parameters:"""
YAML_TAIL = """
    # Quality of service of a topic, by its full name, where the node's own choice does not fit:
    # qos_overrides:
    #   /camera/image_raw:
    #     subscription:
    #       reliability: best_effort
    #       depth: 5
"""
PAGE_HEAD = """\
# Parameters

Defaults stand in the node alone; `config/derain.yaml` shows them as a file. A change of a `live` parameter takes effect
at once, of a `configure` parameter at the next configure, and a `read-only` one is read at start.

| parameter | default | allowed | changes | |
|---|---|---|---|---|
"""


def yaml_text() -> str:
    """config/derain.yaml."""
    lines, group = [YAML_HEAD], ""
    for number, declaration in enumerate(PARAMETERS):
        prefix, _, name = declaration.name.rpartition(".")
        lines += [""] if number else []
        if prefix and prefix != group:
            lines.append(f"    {prefix}:")
        group, indent = prefix, "      " if prefix else "    "
        said = declaration.description + (" (live)" if declaration.changes == "live" else "")
        lines += textwrap.wrap(said, 120, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if declaration.example:
            lines.append(f"{indent}# {name}: {declaration.example}")
        lines.append(f"{indent}{name}: {_shown(declaration.default)}")
    return "\n".join(lines) + "\n" + YAML_TAIL


def page() -> str:
    """docs/parameters.md."""
    rows = [
        f"| `{p.name}` | `{_shown(p.default)}` | {p.allowed} | {p.changes} | {p.description} |\n" for p in PARAMETERS
    ]
    return PAGE_HEAD + "".join(rows)


def _shown(default: Any) -> str:
    """As YAML, which writes them as JSON does but for texts."""
    return default if isinstance(default, str) and default else json.dumps(default)


def main() -> int:
    """Write the files that are made of the parameters."""
    if sys.argv[1:] != ["--write"]:
        print("usage: python -m sapnet_ros.params --write", file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parents[1]
    (root / "config" / "derain.yaml").write_text(yaml_text())
    (root / "docs" / "parameters.md").write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
