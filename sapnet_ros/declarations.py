"""How a parameter is declared: its default, its meaning, what is allowed, when it may change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor


class ParameterError(ValueError):
    """A parameter's value is not allowed; says which, what was got and what is allowed."""


@dataclass(frozen=True)
class Declaration:
    """One parameter. ``default`` None means unset; ``changes`` is ``live``, ``configure`` or ``read-only``."""

    name: str
    default: Any
    description: str
    convert: Callable[[Any], Any]
    allowed: str
    changes: str
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


def parameter(
    default: Any,
    description: str,
    convert: Callable[[Any], Any],
    allowed: str,
    *,
    changes: str = "configure",
    bounds: tuple[float, float] | None = None,
    name: str = "",
) -> Any:
    """A field of NodeParams that is a ROS parameter; ``name`` where the ROS name is not the field's."""
    return field(metadata={"declaration": (name, default, description, convert, allowed, changes, bounds)})


def choice(default: str, choices: tuple[str, ...], description: str, **more: Any) -> Any:
    """A text that is one of ``choices``."""

    def convert(value: Any) -> str:
        if str(value) not in choices:  # as text, for YAML reads the choice `nan` as a number
            raise ValueError
        return str(value)

    return parameter(default, description, convert, f"one of {', '.join(choices)}", **more)


def number(default: float, low: float, high: float, description: str, **more: Any) -> Any:
    """A number from ``low`` to ``high``, a whole one where ``default`` is."""

    kind = type(default)

    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError
        if kind is int and value != int(value):
            raise ValueError
        return kind(value)

    allowed = f"{'a whole number' if kind is int else 'a number'} from {low:.12g} to {high:.12g}"
    return parameter(default, description, convert, allowed, bounds=(low, high), **more)


def switch(default: bool, description: str, **more: Any) -> Any:
    """True or false."""

    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    return parameter(default, description, convert, "true or false", **more)


def text(default: str, description: str, allowed: str, **more: Any) -> Any:
    """A text, which may be empty where ``default`` is."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or (default and not value):
            raise TypeError
        return value

    return parameter(default, description, convert, allowed, **more)


def texts(value: Any) -> tuple[str, ...]:
    """An array of strings; a lone string, which is one of letters to Python, is not."""
    if isinstance(value, str):
        raise TypeError
    return tuple(value or ())
