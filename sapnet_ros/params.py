"""Every parameter of derain_node, once: default, meaning, allowed values, when a change takes effect.

    python -m sapnet_ros.params

writes config/derain.yaml and docs/parameters.md from it, by the templates in docs/templates.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException
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
TAKEN = ("backend", "process")  # names of the other statuses in the diagnostics
_UNSET = (None, "", "null")  # rcl makes None of an empty array, and this text of YAML's null


class ParameterError(ValueError):
    """A parameter's value is not allowed; says which, what was got and what is allowed."""


@dataclass(frozen=True)
class Declaration:
    """One parameter.

    changes: when a change takes effect: ``live``, ``configure`` or ``read-only``.
    bounds, choices: of a number and of a text. convert: returns a value as NodeParams holds it, or raises TypeError or
    ValueError; without it the value is of the default's type. allowed: in words.
    example: a value to show where the default says nothing.
    """

    default: Any
    description: str
    changes: str = "configure"
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    convert: Callable[[Any], Any] | None = None
    allowed: str = ""
    example: str = ""
    name: str = ""

    def check(self, value: Any) -> Any:
        """The value as NodeParams holds it. Raises ParameterError."""
        try:
            return (self.convert or self._convert)(value)
        except (TypeError, ValueError) as err:
            raise ParameterError(f"parameter {self.name!r} must be {self.allowed}, got {value!r}") from err

    def descriptor(self, ranges: bool = True) -> ParameterDescriptor:
        """For ``ros2 param describe``. Typing is dynamic because rclpy kills a node whose double is given as ``1``."""
        descriptor = ParameterDescriptor(
            description=f"{self.description} Changes: {self.changes}.",
            additional_constraints=self.allowed,
            read_only=self.changes == "read-only",
            dynamic_typing=True,
        )
        if self.bounds and ranges:
            low, high = map(type(self.default), self.bounds)
            if isinstance(self.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor

    def _convert(self, value: Any) -> Any:
        kind = type(self.default)
        if self.bounds:
            fits = type(value) in (int, float) and self.bounds[0] <= value <= self.bounds[1] and kind(value) == value
        elif self.choices:
            value = str(value)  # YAML reads the choice `nan` as a number
            fits = value in self.choices
        else:
            if self.default == "" and value in _UNSET:
                return ""
            fits = isinstance(value, kind) and value != ""
        if not fits:
            raise ValueError
        return kind(value)


def _parameter(default: Any, description: str, *bounds: float, **more: Any) -> Any:
    """A field of NodeParams that is a ROS parameter; ``bounds`` are the lowest and the highest value of a number."""
    if bounds:
        number = "a number" if isinstance(default, float) else "a whole number"
        more |= {"bounds": bounds, "allowed": f"{number} from {bounds[0]:.12g} to {bounds[1]:.12g}"}
    elif "choices" in more:
        more["allowed"] = f"one of {', '.join(more['choices'])}"
    elif isinstance(default, bool):
        more["allowed"] = "true or false"
    return field(metadata={"declaration": Declaration(default, description, **more)})


_live = functools.partial(_parameter, changes="live")


def _ros_name(field_name: str) -> str:
    """``rain_gate.hold_s`` of ``rain_gate_hold_s``."""
    return re.sub(f"^({'|'.join(_GROUPS)})_", r"\1.", field_name)


def _texts(value: Any) -> tuple[str, ...]:
    """An array of strings; a lone string, which is one of letters to Python, is not."""
    if isinstance(value, str) and value not in _UNSET:
        raise TypeError
    return () if value in _UNSET else tuple(value)


def _camera_names(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    allowed = all(re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", name) and name not in TAKEN for name in names)
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
        convert=_camera_names,
        allowed="empty, or unique names of letters, digits and single underscores between them that start with a "
        f"letter, but not {' or '.join(TAKEN)}",
        example="[front, rear]",
    )
    image_transport: str = _parameter(
        "raw", "Subscribe to `image` (raw) or to `image/compressed` (compressed).", choices=("raw", "compressed")
    )
    weights: str = _parameter(
        "sapnet_fast",
        "Preset that ships with the package, or path of a checkpoint (.safetensors, .pth).",
        allowed="a preset or a path",
    )
    backend: str = _parameter("auto", "Backend that runs the network; fake is for tests.", choices=BACKENDS)
    device: str = _parameter("auto", "Device that the backend uses.", allowed="auto, cpu, cuda or cuda:N")
    precision: str = _parameter("auto", "Precision of the network's arithmetic.", choices=PRECISIONS)
    stages: int = _live(0, "Stages of the network: fewer are faster. 0: as many as the preset has.", 0, 12)
    target_hz: float = _live(
        0.0,
        "Frame rate of each camera to hold: the node measures the network and runs as many stages, up to `stages`, as "
        "leave 20 % of the time free. 0: off.",
        0,
        1000,
    )
    warmup_sizes: tuple[Size, ...] = _parameter(
        [],
        "Frame sizes to prepare at start, as HEIGHTxWIDTH. Empty: taken from camera_info or the first frame.",
        convert=_sizes,
        allowed="empty, or sizes as HEIGHTxWIDTH of at least 16x16, such as 720x1280",
        example="[720x1280]",
    )
    enabled: bool = _live(True, "Derain frames; false: they pass through.")
    lazy: bool = _live(True, "Derain only while somebody subscribes to an output; else drop frames as unwatched.")
    input_bits: int = _parameter(
        0, "Bits that the camera uses of 16-bit samples, as in thermal images of 14 bits. 0: all 16.", 0, 16
    )
    output_encoding: str = _parameter(
        "bgr8",
        "Encoding of derained/image: bgr8, or the input's (same) if that is rgb8, bgr8, rgba8, bgra8, mono8 or mono16.",
        choices=OUTPUT_ENCODINGS,
    )
    publish_compressed: bool = _parameter(False, "Publish derained/image/compressed too.")
    jpeg_quality: int = _parameter(95, "JPEG quality of derained/image/compressed.", 1, 100)
    mask_threshold: int = _live(
        DEFAULT_MASK_THRESHOLD, "Threshold of the streak mask: it marks pixels that lost more luma than this.", 0, 255
    )
    mask_mode: str = _live(
        "binary",
        "Values of the streak mask: 0 and 255 (binary), or the streaks' strength from 0 to 255 (soft).",
        choices=("binary", "soft"),
    )
    steadiness: float = _live(
        0.0,
        "Weight of the previous derained frame, blended in where the two differ little, against flicker. 0: off.",
        0,
        0.9,
    )
    deadline_ms: int = _live(
        0, "Time from receipt after which the original is published, in milliseconds. 0: off.", 0, 60000
    )
    hang_timeout_s: float = _live(10.0, "Time after which a call of the backend counts as hung, in seconds.", 0.1, 3600)
    on_failure: str = _live(
        "passthrough", "What to do with a frame that cannot be derained.", choices=("passthrough", "drop")
    )
    on_overload: str = _live(
        "drop", "What to do with a frame that a newer one has overtaken.", choices=("drop", "passthrough")
    )
    batch_wait_ms: int = _live(5, "Longest wait for other cameras' frames of equal size, in milliseconds.", 0, 1000)
    rain_gate_enabled: bool = _live(False, "In dry weather, pass frames through without running the network.")
    rain_gate_probe_period_s: float = _live(
        1.0, "Time between two frames that are derained while it is dry, in seconds.", 0, 3600
    )
    rain_gate_on_threshold: float = _live(0.015, "Rain score at which rain begins.", 0, 1)
    rain_gate_off_threshold: float = _live(0.012, "Rain score below which it is dry after rain_gate.hold_s.", 0, 1)
    rain_gate_hold_s: float = _live(
        5.0, "Time that the score must stay below rain_gate.off_threshold, in seconds.", 0, 3600
    )
    diagnostics_silent_after_s: float = _live(
        5.0, "Time without a frame after which a camera is reported as ERROR, in seconds.", 0.1, 3600
    )
    diagnostics_missed_in_row: int = _live(
        20, "Number of consecutive missed deadlines that is reported as ERROR.", 1, 1000000
    )
    diagnostics_build_silent_after_s: float = _live(
        600.0, "Time without progress in loading or building after which it is reported as ERROR, in seconds.", 1, 86400
    )
    max_pixels: int = _parameter(33177600, "Pixels of the largest frame that is decoded.", 256, 2**31 - 1)
    cache_dir: str = _parameter(
        "", "Folder of built engines. Empty: the user's cache folder.", allowed="a folder's path or empty"
    )
    stand_in: bool = _parameter(
        True, "With backend auto, derain with CUDA torch while a TensorRT engine is built; false: wait for the engine."
    )
    engine: str = _parameter("", "Engine file that was built ahead of time. Empty: none.", allowed="a path or empty")
    autostart: bool = _parameter(
        True, "Configure and activate at start, without a lifecycle manager.", changes="read-only"
    )
    fake_latency_ms: float = _parameter(0.0, "Backend fake: duration of a call, in milliseconds.", 0, 60000)
    fake_fail_every: int = _parameter(0, "Backend fake: every Nth call fails. 0: none.", 0, 1000000)
    fake_build_s: float = _parameter(
        0.0, "Backend fake: duration of an engine build, in seconds. 0: no build.", 0, 3600
    )
    fake_mode: str = _parameter("identity", "Backend fake: behavior.", choices=MODES)

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> NodeParams:
        """From values by ROS name; raises ParameterError that names all that are not allowed."""
        checked, errors = [], []
        for declaration in PARAMETERS:
            try:
                checked.append(declaration.check(values[declaration.name]))
            except ParameterError as err:
                errors.append(str(err))
        if errors:
            raise ParameterError("; ".join(errors))
        params = cls(*checked)
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


PARAMETERS: tuple[Declaration, ...] = tuple(
    replace(f.metadata["declaration"], name=_ros_name(f.name)) for f in fields(NodeParams)
)
"""All parameters, in the order of NodeParams."""

BY_NAME: Mapping[str, Declaration] = {declaration.name: declaration for declaration in PARAMETERS}


def declare(node: Node) -> None:
    """Declare all parameters. A value that is not allowed stays, for configure to refuse, until it is mended."""
    for declaration in PARAMETERS:
        try:
            node.declare_parameter(declaration.name, declaration.default, declaration.descriptor())
        except InvalidParameterValueException:
            node.declare_parameter(declaration.name, declaration.default, declaration.descriptor(ranges=False))
        if declaration.default in ([], "") and node.get_parameter(declaration.name).value in ([], *_UNSET):
            # An empty list is one of bytes to rclpy, and a null is no value: both are to be dumped as they were.
            kind = Parameter.Type.STRING if declaration.default == "" else Parameter.Type.STRING_ARRAY
            node.set_parameters([Parameter(declaration.name, kind, declaration.default)])


def current(node: Node, changes: Iterable[Parameter] = ()) -> NodeParams:
    """What the node holds now, with ``changes`` on top. Raises ParameterError."""
    values = {declaration.name: node.get_parameter(declaration.name).value for declaration in PARAMETERS}
    return NodeParams.check(values | {change.name: change.value for change in changes if change.name in BY_NAME})


def require_allowed(node: Node, changes: Iterable[Parameter], configured: bool) -> None:
    """Raises ParameterError if ``changes`` may not be made now. Parameters that are not ours are not judged."""
    for change in changes:
        if (declaration := BY_NAME.get(change.name)) is None:
            continue
        # rclpy would undeclare it, and every later change would fail for the missing one.
        if change.type_ == Parameter.Type.NOT_SET:
            raise ParameterError(f"parameter {change.name!r} cannot be deleted")
        value = declaration.check(change.value)
        fixed = configured and declaration.changes != "live"
        if fixed and value != declaration.check(node.get_parameter(change.name).value):
            raise ParameterError(
                f"parameter {change.name!r} takes effect at the next configure: deactivate and clean up the node first"
            )
    if configured:  # before that, others that are not allowed may still be mended
        current(node, changes)


def documents() -> dict[Path, str]:
    """config/derain.yaml and docs/parameters.md by their paths, made from docs/templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # the node does without

    root = Path(__file__).resolve().parents[1]
    templates = FileSystemLoader(root / "docs" / "templates")
    environment = Environment(  # noqa: S701, plain text
        loader=templates, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["shown"] = _shown
    paths = root / "config" / "derain.yaml", root / "docs" / "parameters.md"
    return {path: environment.get_template(f"{path.name}.j2").render(parameters=PARAMETERS) for path in paths}


def _shown(default: Any) -> str:
    """As YAML, which writes them as JSON does but for texts."""
    return default if isinstance(default, str) and default else json.dumps(default)


if __name__ == "__main__":
    for document, content in documents().items():
        document.write_text(content)
