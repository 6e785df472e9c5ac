"""Weights in and out of files: safetensors in this project's layout, and the official ``.pth`` files."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sapnet.config import PRESETS, ModelConfig
from sapnet.errors import CheckpointError, first_line
from sapnet.files import replacing
from sapnet.model.sapnet import SAPNet

CONFIG_KEY = "model_config"
_FOLDER = Path(__file__).resolve().parents[1] / "weights"
_SUFFIXES = (".safetensors", ".pth")
_MAX_SAID = 300
# What safetensors raises at damaged files, and the unpickler, whose instructions are then any.
_UNREADABLE = (
    SafetensorError,
    OSError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)

State = Mapping[str, Tensor]

# Parts of the network's names and what the official file calls them.
_OFFICIAL = {
    "head.": "conv0.0.",
    "tail.": "conv.0.",
    "conv1.": "0.",
    "attention1.": "1.",
    "conv2.": "3.",
    "attention2.": "4.",
    "squeeze.": "conv_du.0.",
    "expand.": "conv_du.2.",
    "skip.": "conv_1_1.",
    "depthwise.": "depth_conv.",
    "pointwise.": "point_conv.",
}


def shipped_weights() -> dict[str, Path]:
    """The presets that have weights in this package, and their files."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors")) if path.stem in PRESETS}


def load_weights(weights: str | Path) -> SAPNet:
    """The network with its weights, float32 on the CPU, in evaluation mode, without gradients.

    weights: a preset with shipped weights, or the path of a .safetensors or official .pth file. A file
    without a ModelConfig in its metadata is taken for the preset that it fits best.
    Raises CheckpointError, which names the file and the first tensors that are wrong.
    """
    path = find_weights(weights)
    state, metadata = _read(path)
    try:
        named = [ModelConfig(**json.loads(metadata[CONFIG_KEY]))] if CONFIG_KEY in metadata else []
    except (ValueError, TypeError) as err:
        raise CheckpointError(
            f"{path}: metadata {CONFIG_KEY!r} is no ModelConfig ({err}); save the weights again"
        ) from err
    refusals = []
    for choice in named or PRESETS.values():
        # Made without memory and without drawing random numbers: every tensor comes from the file.
        with torch.device("meta"):
            network = SAPNet(choice)
        try:
            network.load_state_dict(_by_our_names(state, network), assign=True)
        except RuntimeError as err:
            refusals.append(err)
            continue
        _require_finite(network, f"{path}: ", "give undamaged weights")
        return network.requires_grad_(False).eval()
    # torch names all wrong tensors: the missing ones, then those that are too many, then those of another shape.
    nearest = min(map(str, refusals), key=len)
    said = shorten(nearest.partition("\n")[2] or nearest, _MAX_SAID, placeholder=" ...")
    raise CheckpointError(
        f"{path}: {said}; give undamaged weights of SAPNet, saved by this package or the official .pth"
    )


def save_weights(network: SAPNet, path: str | Path, provenance: Mapping[str, str]) -> None:
    """Write ``network`` as float32 safetensors with its ModelConfig and ``provenance`` in the metadata.

    The file appears whole or not at all. Raises CheckpointError for weights that cannot be saved, SapnetError if the
    file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: weights are saved as .safetensors, got {path.suffix!r}; change the name")
    _require_finite(network, f"{path}: not saved, ", "an earlier file of that name is left as it was")
    state = {key: tensor.detach().to("cpu", torch.float32).contiguous() for key, tensor in network.state_dict().items()}
    metadata = {**provenance, CONFIG_KEY: json.dumps(asdict(network.config))}
    with replacing(path) as temporary:
        temporary.write_bytes(save(state, metadata))


def read_metadata(weights: str | Path) -> dict[str, str]:
    """Metadata of a preset's or path's weights: ``model_config`` as JSON and the provenance; empty for a .pth."""
    return _read(find_weights(weights))[1]


def _by_our_names(state: State, network: SAPNet) -> State:
    """``state`` by this project's names, where it has the official ones, which have a tensor for each gate."""
    if "conv0.0.weight" not in state and "conv0.0.depth_conv.weight" not in state:
        return state
    ours, rest = {}, dict(state)
    for key in network.state_dict():
        name = re.sub(r"\w+\.", lambda part: _OFFICIAL.get(part[0], part[0]), key)
        name = re.sub(r"^blocks\.(\d)", lambda block: f"res_conv{int(block[1]) + 1}", name)
        names = [name.replace("lstm.gates", f"conv_{gate}.0") for gate in ("ifgo" if "lstm.gates" in name else "i")]
        if all(name in rest for name in names):
            ours[key] = torch.cat([rest.pop(name) for name in names])
    return {**ours, **rest}


def _require_finite(network: SAPNet, said: str, advice: str) -> None:
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{said}tensor {name!r} holds NaN or infinite values, expected finite ones; {advice}")


def find_weights(weights: str | Path) -> Path:
    """The file that ``weights`` means. Raises CheckpointError."""
    shipped = shipped_weights()
    if str(weights) in shipped:
        return shipped[str(weights)]
    path = Path(weights).expanduser()
    if path.suffix not in _SUFFIXES:
        raise CheckpointError(
            f"{str(weights)!r} is neither a preset with shipped weights (have: {', '.join(shipped) or 'none'}) "
            "nor a path that ends in .safetensors or .pth; correct the name, or give the path of a file"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path, relative ones start at {Path.cwd()}")
    return path


def _read(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors and metadata; a .pth has none of the latter."""
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as err:
        raise CheckpointError(
            f"{path}: cannot be read as {path.suffix} weights ({first_line(err)}); copy the file again, "
            "and if it holds more than tensors save its state dict alone"
        ) from err
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a state dict of named tensors")
    # DataParallel, which the official files were saved from, puts "module." before every name. Copied, as tensors of
    # safetensors are mapped from the file, which somebody may write over while the network runs.
    state = {str(name).removeprefix("module."): tensor.to(torch.float32, copy=True) for name, tensor in content.items()}
    return state, metadata
