"""An object detector in an ONNX file, as FastestDet exports it (github.com/dog-qiuqiu/FastestDet), on onnxruntime.

Input: float32 (1, 3, H, W) BGR in [0, 1], the frame stretched to it bilinearly. Output: float32
(1, 5 + classes, H/16, W/16); a cell says, channel by channel,

    0       whether an object has its middle near here, after the sigmoid
    1, 2    where that is: ((column + tanh) / columns, (row + tanh) / rows) of the frame
    3, 4    its width and height: sigmoid, of the frame's
    5...    of which class it is, after the softmax

and its confidence is objectness^0.6 * class^0.4. Boxes of a class that overlap by more than 0.45 are one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.errors import SapnetError
from sapnet.images.frame import Frame

Floats = NDArray[np.float64]

_CELL = 16  # pixels of the input over cells of the output, each way
_BOX_CHANNELS = 5
_OBJECTNESS_POWER, _CLASS_POWER = 0.6, 0.4
_SAME_OBJECT = 0.45


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one frame, the most confident first.

    boxes: (N, 4) left, top, right, bottom in pixels. confidences: (N,) in [0, 1]. classes: (N,) indices.
    """

    boxes: Floats
    confidences: Floats
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)


class Detector:
    """Finds objects in frames.

    path: an ONNX file of FastestDet's layout. Raises SapnetError for what is missing, no ONNX or of another layout.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as err:
            raise SapnetError("running a detector needs onnxruntime: pip install -r requirements/dev.txt") from err
        options = onnxruntime.SessionOptions()
        # A small network: threads of its own would spin beside the deraining network's.
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is in our error
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as err:  # onnxruntime's errors have no common base
            raise SapnetError(f"{path} is not a network that onnxruntime can run: {err}") from err
        shapes = [node.shape for node in (*self._session.get_inputs(), *self._session.get_outputs())]
        match shapes:
            case [[1, 3, int(height), int(width)], [1, int(channels), int(rows), int(columns)]]:
                if channels > _BOX_CHANNELS and (rows * _CELL, columns * _CELL) == (height, width):
                    self._size = width, height
                    return
        raise SapnetError(
            f"{path} is no detector of FastestDet's layout: its inputs and outputs are {shapes}; expected [1, 3, H, W] "
            "with H and W fixed, and [1, 5 + classes, H/16, W/16]"
        )

    def __call__(self, frame: Frame, confidence: float) -> Detections:
        """Objects of at least this confidence in a frame, uint8 (H, W, 3) BGR; boxes end at its border."""
        stretched = cv2.resize(frame, self._size, interpolation=cv2.INTER_LINEAR)
        batch = stretched.transpose(2, 0, 1)[np.newaxis].astype(np.float32) / np.float32(255)
        height, width, _ = frame.shape
        (prediction,) = self._session.run(None, {self._session.get_inputs()[0].name: batch})
        return decode(prediction[0], height, width, confidence)


def decode(prediction: NDArray[np.float32], height: int, width: int, confidence: float) -> Detections:
    """Objects of at least this confidence in a frame of that size; prediction: (5 + classes, rows, columns)."""
    rows, columns = prediction.shape[1:]
    row, column = np.mgrid[:rows, :columns]
    objectness, x, y, *sides = prediction[:_BOX_CHANNELS].astype(np.float64)
    middle = np.stack([(column + np.tanh(x)) / columns, (row + np.tanh(y)) / rows], axis=-1)
    half = np.stack([0.5 / (1 + np.exp(-side)) for side in sides], axis=-1)
    likeliest = prediction[_BOX_CHANNELS:].max(axis=0).astype(np.float64)
    confidences = objectness**_OBJECTNESS_POWER * likeliest**_CLASS_POWER
    sure = confidences >= confidence
    frame = np.array((width, height, width, height), np.float64)
    boxes = np.concatenate([middle - half, middle + half], axis=-1)[sure] * frame
    corners_and_sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=-1)
    classes = prediction[_BOX_CHANNELS:].argmax(axis=0)[sure]
    distinct = cv2.dnn.NMSBoxesBatched(corners_and_sides, confidences[sure], classes, 0.0, _SAME_OBJECT)
    kept = np.array(distinct, np.int64)
    return Detections(np.clip(boxes[kept], 0, frame), confidences[sure][kept], classes[kept])
