"""An ONNX detector of FastestDet's layout that needs no training: red is an object, blue besides makes it the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SIDE, CELL = 64, 16
RED, MAGENTA = 0, 1  # classes


def write_colour_detector(path: Path) -> Path:
    """Input (1, 3, 64, 64); an output cell is 16 pixels wide, and its box a quarter of the frame.

    The mean colour of a cell says: objectness ``red - green``; class 0 ``1 - blue``, class 1 ``blue``.
    """
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install -r requirements/dev.txt")
    helper = onnx.helper
    # Channels of the input are B, G, R.
    objectness = np.array([[0, -1, 1]], np.float32)
    others = np.array([[0, 0, 0]] * 4 + [[-1, 0, 0], [1, 0, 0]], np.float32)
    quarter = -np.log(3)  # whose sigmoid is 1/4
    constants = {
        "objectness_weight": objectness[..., None, None],
        "others_weight": others[..., None, None],
        "others_bias": np.array([0, 0, quarter, quarter, 1, 0], np.float32),
    }
    nodes = [
        helper.make_node("AveragePool", ["frame"], ["mean"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["mean", "objectness_weight"], ["signed"]),
        helper.make_node("Relu", ["signed"], ["objectness"]),
        helper.make_node("Conv", ["mean", "others_weight", "others_bias"], ["others"]),
        helper.make_node("Concat", ["objectness", "others"], ["cells"], axis=1),
    ]
    return save_network(path, nodes, [1, 3, SIDE, SIDE], [1, 7, SIDE // CELL, SIDE // CELL], constants)


def save_network(path, nodes, input_shape, output_shape, constants=None) -> Path:
    """Write a network from ``frame`` to ``cells``, both float32."""
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install -r requirements/dev.txt")
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("frame", 1, input_shape)],
        [helper.make_tensor_value_info("cells", 1, output_shape)],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path
