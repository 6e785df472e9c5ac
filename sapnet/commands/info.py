"""``sapnet info``: what is installed here and what of it runs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import sapnet
from sapnet.commands.common import add_command
from sapnet.errors import SapnetError

if TYPE_CHECKING:
    from sapnet.commands.common import Subparsers

_EXAMPLES = """\
sapnet info
sapnet info --json
"""

# Each library's names as a package, the first that is installed counts.
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "tensorrt_rtx": ("tensorrt_rtx",),
    "tensorrt": ("tensorrt",),
    "torch_tensorrt": ("torch_tensorrt", "torch_tensorrt_rtx"),
    "numpy": ("numpy",),
    "safetensors": ("safetensors",),
    "rosbags": ("rosbags",),
    "rclpy": ("ros-rclpy", "rclpy"),
}
_NAME_WIDTH = 14


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet info``."""
    summary = "show the weights, backends and versions that are here"
    parser = add_command(subparsers, "info", summary, _EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print what is here. Raises SapnetError where shipped weights are damaged."""
    facts = gather()
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_text(facts)))
    return 0


def gather() -> dict[str, Any]:
    """Everything that ``sapnet info`` tells, as JSON has it. Raises SapnetError.

    weights: empty without torch, which reads them. auto: what ``auto`` chooses, None where nothing runs.
    backends: for each its ``why_not``, empty where it runs.
    """
    from sapnet.backends import available_backends

    torch_works = _torch_works()
    return {
        "sapnet": sapnet.__version__,
        "weights": _weights() if torch_works else {},
        "backends": {name: {"available": not why, "why_not": why} for name, why in available_backends().items()},
        "auto": _auto(),
        "versions": _versions(),
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "gpus": _gpus() if torch_works else []},
        "ros": {"available": find_spec("rclpy") is not None, "distro": os.environ.get("ROS_DISTRO")},
    }


def _torch_works() -> bool:
    try:
        import torch  # noqa: F401
    # A broken installation raises OSError from its shared objects.
    except (ImportError, OSError):
        return False
    return True


def _weights() -> dict[str, dict[str, Any]]:
    from sapnet.model.weights import CONFIG_KEY, load_weights, read_metadata, shipped_weights

    found = {}
    for name, path in shipped_weights().items():
        network = load_weights(name)
        found[name] = {
            "path": str(path),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "stages": network.config.stages,
            "provenance": {key: text for key, text in sorted(read_metadata(name).items()) if key != CONFIG_KEY},
        }
    return found


def _auto() -> dict[str, str] | None:
    from sapnet.derainer import Derainer

    try:
        with Derainer() as derainer:
            return {
                "backend": derainer.backend_name,
                "precision": derainer.precision,
                "device": derainer.device,
                "weights": derainer.weights,
            }
    except SapnetError:
        return None


def _versions() -> dict[str, str | None]:
    """Versions by library; None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "opencv": _opencv_version()}
    for name, packages in _PACKAGES.items():
        found[name] = next(filter(None, map(_version, packages)), None)
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _opencv_version() -> str:
    # Distributions ship OpenCV without the records that importlib.metadata reads.
    import cv2

    return str(cv2.__version__)


def _cpu() -> str:
    from sapnet.backends.devices import processor_name

    return processor_name()


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _text(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sections of names and what is to be said of them, wrapped to the terminal."""
    yield f"sapnet {facts['sapnet']}"
    for title, rows in _sections(facts):
        yield ""
        yield title
        for name, text in rows:
            yield _row(name, text)


def _sections(facts: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    yield "weights", list(_say_weights(facts["weights"]))
    backends = [(name, _say_backend(name, entry)) for name, entry in facts["backends"].items()]
    yield "backends", [("auto", _say_auto(facts["auto"])), *backends]
    yield "versions", [(name, version or "not installed") for name, version in facts["versions"].items()]
    hardware, ros = facts["hardware"], facts["ros"]
    cpu = f"{hardware['cpu']}, {hardware['cores']} cores"
    gpus = ", ".join(hardware["gpus"]) or "none that torch can use"
    found = f"rclpy found, ROS_DISTRO {ros['distro'] or 'not set'}" if ros["available"] else "not found"
    yield "machine", [("cpu", cpu), ("gpu", gpus), ("ros 2", found)]


def _say_weights(weights: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not weights:
        yield "", "cannot be read without torch: pip install torch"
    for name, entry in weights.items():
        yield name, f"{entry['parameters']:,} parameters, {entry['stages']} stages"
        for key, text in entry["provenance"].items():
            yield "", f"{key}: {text}"
        yield "", entry["path"]


def _say_backend(name: str, entry: Mapping[str, Any]) -> str:
    if not entry["available"]:
        return str(entry["why_not"])
    return "runs (for tests: derains nothing)" if name == "fake" else "runs"


def _say_auto(auto: Mapping[str, str] | None) -> str:
    return "no backend runs here" if auto is None else f"{auto['backend']}, {auto['precision']}, on {auto['device']}"


def _row(name: str, text: str) -> str:
    indent = " " * (_NAME_WIDTH + 2)
    # What is piped is not wrapped, so that a search finds whole lines.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    return textwrap.fill(
        text,
        max(width, 2 * len(indent)),
        initial_indent=f"  {name:<{_NAME_WIDTH}}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
