"""``sapnet info``: the weights, backends and versions that are installed, and which backends run."""

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
sapnet info --verbose
sapnet info --json
"""
_DESCRIPTION = """\
Show the weights, backends and versions that are installed. PSNR is what the weights file states, on luma, by data
set. --verbose adds how each weights file was trained.
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
_LICENCES = ("Apache-2.0", "MIT")  # the first is that of weights which state none
_NAME_WIDTH = 14


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet info``."""
    summary = "show the installed weights, backends and versions"
    parser = add_command(subparsers, "info", summary, _EXAMPLES, _DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print what is installed. Raises SapnetError where shipped weights are damaged."""
    facts = gather()
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_text(facts, args.verbose)))
    return 0


def gather() -> dict[str, Any]:
    """Everything that ``sapnet info`` prints, as plain values for JSON. Raises SapnetError.

    weights: for each shipped file ``psnr`` in dB by data set, and its ``provenance``; empty without torch.
    auto: what ``auto`` chooses, None where no backend runs. backends: for each ``why_not``, empty where it runs.
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
        provenance = {key: text for key, text in sorted(read_metadata(name).items()) if key != CONFIG_KEY}
        found[name] = {
            "path": str(path),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "stages": network.config.stages,
            "bytes": path.stat().st_size,
            "psnr": dict(_psnr(json.loads(provenance.get("metrics", "{}")))),
            "licence": provenance.get("licence", _LICENCES[0]),
            "provenance": provenance,
        }
    return found


def _psnr(metrics: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """PSNR by data set, of ``{"SET": {"psnr_y": dB}}`` or, as training.train writes it, ``{"val/SET/psnr": dB}``."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from _psnr(value, f"val/{key}/")
            continue
        *folders, figure = (within + key).split("/")
        if len(folders) == 2 and figure.startswith("psnr"):
            yield folders[1].removesuffix("_dev"), round(value, 2)


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


def _text(facts: Mapping[str, Any], verbose: bool) -> Iterator[str]:
    """Lines for people: a table of weights, then sections of names and what is to be said of them."""
    yield f"sapnet {facts['sapnet']}"
    yield ""
    yield from _weights_table(facts["weights"])
    for title, rows in _sections(facts, verbose):
        yield ""
        yield title
        for name, text in rows:
            yield _row(name, text)


def _weights_table(weights: Mapping[str, Any]) -> Iterator[str]:
    if not weights:
        yield "weights"
        yield "  cannot be read without torch: pip install torch"
        return
    rows = [["weights", "parameters", "stages", "MB", "PSNR, dB", "licence"]]
    for name, entry in weights.items():
        psnr = " ".join(f"{data} {decibels:.1f}" for data, decibels in list(entry["psnr"].items())[:2])
        licences = ", ".join(licence for licence in _LICENCES if licence in entry["licence"]) or entry["licence"]
        size = f"{entry['bytes'] / 1e6:.2f}"
        figures = [f"{entry['parameters']:,}", str(entry["stages"]), size, psnr or "not stated"]
        rows.append([name, *figures, licences])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if 1 <= index <= 3 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _sections(facts: Mapping[str, Any], verbose: bool) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    backends = [(name, _say_backend(name, entry)) for name, entry in facts["backends"].items()]
    yield "backends", [("auto", _say_auto(facts["auto"])), *backends]
    hardware, ros = facts["hardware"], facts["ros"]
    cpu = f"{hardware['cpu']}, {hardware['cores']} cores"
    gpus = ", ".join(hardware["gpus"]) or "none that torch can use"
    found = f"rclpy found, ROS_DISTRO {ros['distro'] or 'not set'}" if ros["available"] else "not found"
    versions = facts["versions"]
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = ", ".join(name for name, version in versions.items() if not version)
    libraries = [("installed", installed), *([("missing", missing)] if missing else [])]
    yield "machine", [("cpu", cpu), ("gpu", gpus), ("ros 2", found), *libraries]
    if verbose:
        for entry in facts["weights"].values():
            yield entry["path"], list(entry["provenance"].items())


def _say_backend(name: str, entry: Mapping[str, Any]) -> str:
    if not entry["available"]:
        return str(entry["why_not"])
    return "runs; for tests, does not derain" if name == "fake" else "runs"


def _say_auto(auto: Mapping[str, str] | None) -> str:
    return "no backend runs here" if auto is None else f"{auto['backend']}, {auto['precision']}, on {auto['device']}"


def _row(name: str, text: str) -> str:
    indent = " " * max(_NAME_WIDTH + 2, len(name) + 4)
    # What is piped is not wrapped, so that a search finds whole lines.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    return textwrap.fill(
        text,
        max(width, 2 * len(indent)),
        initial_indent=f"  {name}".ljust(len(indent)),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
