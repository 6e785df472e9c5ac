"""An ONNX detector of FastestDet's layout that needs no training: red is an object, blue besides makes it the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SIDE, CELL = 64, 16
RED, MAGENTA = 0, 1  # classes


def write_colour_detector(path: Path) -> Path:
    """Input (1, 3, 64, 64); an output cell is 16 pixels wide, and its box half as high and wide as the frame.

    The mean colour of a cell says: objectness ``red - green``; class 0 ``1 - blue``, class 1 ``blue``.
    """
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install -r requirements/dev.txt")
    node = onnx.helper.make_node
    # Of the input's channels B, G, R: objectness, the box, two classes.
    weight = np.array([[0, -1, 1], *[[0, 0, 0]] * 4, [-1, 0, 0], [1, 0, 0]])
    constants = {"weight": weight[..., None, None], "bias": np.array([0, 0, 0, 0, 0, 1, 0])}
    nodes = [
        node("AveragePool", ["frame"], ["mean"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        node("Conv", ["mean", "weight", "bias"], ["signed"]),
        node("Relu", ["signed"], ["cells"]),
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
