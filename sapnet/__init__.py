"""SAPNet: takes rain out of camera frames.

The public names load on first use, so that the parts which need no network stay free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapnet.config import ModelConfig
    from sapnet.derainer import Derained, Derainer
    from sapnet.model.sapnet import SAPNet
    from sapnet.model.weights import load_weights

__version__ = "0.1.0"

_HOMES = {
    "Derained": "sapnet.derainer",
    "Derainer": "sapnet.derainer",
    "ModelConfig": "sapnet.config",
    "SAPNet": "sapnet.model.sapnet",
    "load_weights": "sapnet.model.weights",
}

__all__ = ["Derained", "Derainer", "ModelConfig", "SAPNet", "load_weights"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
