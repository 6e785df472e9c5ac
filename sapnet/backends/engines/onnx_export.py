"""The deploy network as ONNX, from which TensorRT-RTX builds."""

from __future__ import annotations

import copy
import logging
import warnings

import torch
from torch.export import Dim

from sapnet.backends.network import DTYPES
from sapnet.errors import BackendError
from sapnet.model import DeployNet

# Odd and with more than one frame, so that no size of the example can pass for a constant of the network.
_EXAMPLE_SHAPE = (2, 33, 46, 3)


def export_onnx(network: DeployNet, precision: str) -> bytes:
    """A serialized ONNX model whose batch, height and width are free; ``network`` is left as it is.

    Input uint8 (B, H, W, 3); outputs uint8 (B, H, W, 3) and (B, H, W). precision: ``fp32``, ``bf16`` or ``fp16``, the
    type of the network's tensors between the casts. Takes some ten seconds of Python. Raises BackendError.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as err:
        raise BackendError(f"the network cannot be exported ({err}); install it: pip install onnx onnxscript") from err
    network = copy.deepcopy(network).cpu()
    network.network.to(DTYPES[precision])
    example = torch.zeros(_EXAMPLE_SHAPE, dtype=torch.uint8)
    sizes = ({0: Dim.AUTO, 1: Dim.AUTO, 2: Dim.AUTO},)
    # Its advice is for whoever maintains the exporter.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (example,), dynamic_shapes=sizes)
            model = torch.onnx.export(program, dynamo=True, verbose=False)
    # The exporter raises classes of its own, of several trees.
    except Exception as err:
        raise BackendError(f"the network cannot be exported to ONNX: {type(err).__name__}: {err}") from err
    assert model is not None
    return bytes(model.model_proto.SerializeToString())
