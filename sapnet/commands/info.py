"""``sapnet info``: the weights, backends and versions that are installed, and which backends run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import sapnet
from sapnet.commands.common import Subparsers, add_command, stdout_console
from sapnet.errors import SapnetError

_EXAMPLES = """\
sapnet info
sapnet info --verbose
sapnet info --json
"""
_DESCRIPTION = """\
Show the weights, backends and versions that are installed. PSNR is what the weights file states, on luma, by data
set. --verbose adds how each weights file was trained.
"""
_PACKAGES = ("torch", "openvino", "tensorrt_rtx", "tensorrt", "numpy", "safetensors", "rosbags")
_LICENCES = ("Apache-2.0", "MIT")


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Describe the arguments of ``sapnet info``."""
    summary = "show the installed weights, backends and versions"
    parser = add_command(subparsers, "info", summary, _EXAMPLES, _DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print what is installed. Raises SapnetError where shipped weights are damaged."""
    facts = gather()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts, args.verbose)
    return 0


def gather() -> dict[str, Any]:
    """Everything that ``sapnet info`` prints, as plain values for JSON. Raises SapnetError.

    weights: for each shipped file ``psnr`` in dB by data set, and its ``provenance``; empty without torch.
    auto: what ``auto`` chooses, None where no backend runs. backends: for each ``why_not``, empty where it runs.
    """
    import cv2

    from sapnet.backends import available_backends
    from sapnet.backends.devices import processor_name

    weights: dict[str, dict[str, Any]] = {}
    gpus: list[str] = []
    try:
        import torch
    # A broken installation raises OSError from its shared objects.
    except (ImportError, OSError):
        pass
    else:
        weights = _weights()
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    installed = {
        name: next((found.version for found in metadata.distributions(name=name)), None)
        for name in (*_PACKAGES, "rclpy", "ros-rclpy")
    }
    installed["rclpy"] = installed.pop("ros-rclpy") or installed["rclpy"]
    return {
        "sapnet": sapnet.__version__,
        "weights": weights,
        "backends": {name: {"available": not why, "why_not": why} for name, why in available_backends().items()},
        "auto": _auto(),
        # Distributions ship OpenCV without the records that importlib.metadata reads.
        "versions": {"python": platform.python_version(), "opencv": str(cv2.__version__), **installed},
        "hardware": {"cpu": processor_name(), "cores": os.cpu_count(), "gpus": gpus},
        "ros": {"available": find_spec("rclpy") is not None, "distro": os.environ.get("ROS_DISTRO")},
    }


def _weights() -> dict[str, dict[str, Any]]:
    from sapnet.model.weights import CONFIG_KEY, load_weights, read_metadata, shipped_weights

    found = {}
    for name, path in shipped_weights().items():
        network = load_weights(name)
        provenance = {key: text for key, text in sorted(read_metadata(name).items()) if key != CONFIG_KEY}
        metrics = json.loads(provenance["metrics"])
        found[name] = {
            "path": str(path),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "stages": network.config.stages,
            "bytes": path.stat().st_size,
            "psnr": {data.removesuffix("_dev"): round(figures["psnr_y"], 2) for data, figures in metrics.items()},
            "licence": provenance["licence"],
            "provenance": provenance,
        }
    return found


def _auto() -> dict[str, Any] | None:
    from sapnet.derainer import Derainer

    with suppress(SapnetError), Derainer() as derainer:
        return derainer.facts
    return None


def _print(facts: Mapping[str, Any], verbose: bool) -> None:
    """For people: a table of weights, then sections of names and what is to be said of them."""
    auto, hardware, ros, versions = facts["auto"], facts["hardware"], facts["ros"], facts["versions"]
    sections = {
        "backends": {
            "auto": f"{auto['backend']}, {auto['precision']}, on {auto['device']}" if auto else "no backend runs here",
            **{name: entry["why_not"] or "runs" for name, entry in facts["backends"].items()},
        },
        "machine": {
            "cpu": f"{hardware['cpu']}, {hardware['cores']} cores",
            "gpu": ", ".join(hardware["gpus"]) or "none that torch can use",
            "ros 2": f"rclpy found, ROS_DISTRO {ros['distro'] or 'not set'}" if ros["available"] else "not found",
            "installed": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
            "missing": ", ".join(name for name, version in versions.items() if not version) or "nothing",
        },
    }
    if verbose:
        sections |= {entry["path"]: entry["provenance"] for entry in facts["weights"].values()}
    print(f"sapnet {facts['sapnet']}", "", *_weights_table(facts["weights"]), sep="\n")
    width, longest = stdout_console().width or 80, max(len(name) for rows in sections.values() for name in rows)
    for title, rows in sections.items():
        print(f"\n{title}")
        for name, text in rows.items():
            line = f"  {name:<{longest}}  {text}"
            print(textwrap.fill(line, width, subsequent_indent=" " * (longest + 4), break_on_hyphens=False))


def _weights_table(weights: Mapping[str, Any]) -> list[str]:
    if not weights:
        return ["weights", "  cannot be read without torch: pip install torch"]
    row = "{:<12} {:>10}  {:>6}  {:>4}  {:<24}  {}".format
    lines = [row("weights", "parameters", "stages", "MB", "PSNR, dB", "licence")]
    for name, entry in weights.items():
        psnr = " ".join(f"{data} {decibels:.1f}" for data, decibels in list(entry["psnr"].items())[:2])
        licences = ", ".join(licence for licence in _LICENCES if licence in entry["licence"])
        size = f"{entry['bytes'] / 1e6:.2f}"
        lines.append(row(name, f"{entry['parameters']:,}", entry["stages"], size, psnr, licences))
    return lines
