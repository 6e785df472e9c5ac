"""``sapnet bench``: candidates and other models take turns, and are compared with what the machine can do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sapnet.bench import Candidate, OnnxModel, Peak, Work, count, measure
from sapnet.cli import main
from sapnet.errors import BackendError

FAKE = Candidate("sapnet_fast", "fake")


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    """Makes ONNX models that double float32 images of a layout whose height and width are free, and batch is 1."""
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    folder = tmp_path_factory.mktemp("onnx")

    def make(layout):
        shape = [1, 3, "height", "width"] if layout == "nchw" else [1, "height", "width", 3]
        images = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "g", images[:1], images[1:])
        opset = onnx.helper.make_opsetid("", 17)
        path = folder / f"{layout}.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
        return path

    return make


class TestMeasure:
    def test_rows_are_relative_to_the_first(self):
        first, second = measure([FAKE, Candidate("sapnet", "fake", "fp16", "cpu", stages=2)], 24, 32, batch=2, frames=5)
        assert (first.weights, second.weights) == ("sapnet_fast", "sapnet")
        assert first.ratio == 1.0
        assert second.ratio > 0
        assert 0 < first.p5_ms <= first.p50_ms <= first.p95_ms
        assert first.fps == pytest.approx(2000 / first.p50_ms, rel=0.01)
        assert first.of_bound is None

    def test_a_real_network_has_a_bound(self, tiny_weights):
        candidate = Candidate(str(tiny_weights), "torch", "fp32", "cpu")
        (timing,) = measure([candidate], 16, 18, frames=2)
        assert (timing.backend, timing.precision, timing.stages) == ("torch", "fp32", 2)
        assert timing.bound_ms > 0
        assert timing.of_bound == pytest.approx(timing.bound_ms / timing.p50_ms, abs=0.01)


class TestOnnxModel:
    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    @pytest.mark.parametrize("layout", ["nchw", "nhwc"])
    def test_runs_beside_ours(self, doubling, layout, runtime):
        pytest.importorskip(runtime, reason=f"needs {runtime}")
        _, timing = measure([FAKE, OnnxModel(doubling(layout), runtime, layout, "fp32")], 20, 30, frames=2)
        assert (timing.backend, timing.precision, timing.stages) == (runtime, "fp32", None)
        assert timing.weights.endswith(f"{layout}.onnx")
        assert timing.p50_ms > 0

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_a_wrong_layout_is_said(self, doubling, runtime):
        pytest.importorskip(runtime, reason=f"needs {runtime}")
        with pytest.raises(BackendError, match=rf"nchw\.onnx: {runtime}.*--layout"):
            measure([OnnxModel(doubling("nchw"), runtime, "nhwc")], 20, 30, frames=1)


class TestBound:
    def test_work_of_the_vehicle_network(self):
        """By hand: multiplications of each pixel of 120x160, twice as FLOP."""
        works = count("sapnet_fast", 0, "bf16", 2, 240, 320)
        pixels, stages = 2 * 120 * 160, 4
        head, gates, body, tail = 9 * 24 * 32, 9 * 64 * 128, 10 * 9 * 32 * 32, 9 * 32 * 12
        saved = 9 * 12 * 32 + gates - 9 * 32 * 96  # in the first stage
        assert sum(work.flop for work in works) == 2 * pixels * (stages * (head + gates + body + tail) - saved)
        assert len(works) == stages * 13
        weights = 9 * 32 * 32
        assert works[2].bytes == 2 * (pixels * 64 + weights)

    def test_the_slower_of_arithmetic_and_memory_counts(self):
        peak = Peak(flop_per_s=100.0, bytes_per_s=10.0)
        assert peak.seconds([Work(200, 1), Work(1, 50)]) == 2.0 + 5.0


class TestCommand:
    def test_json(self, capsys):
        arguments = ["--weights", "sapnet", "sapnet_fast", "--backend", "fake", "fake:fp32", "--shape", "20x30"]
        assert main(["bench", *arguments, "--frames", "3", "--batch", "2", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["shape"], report["batch"], report["frames"]) == ([20, 30], 2, 3)
        assert [row["weights"] for row in report["timings"]] == ["sapnet", "sapnet", "sapnet_fast", "sapnet_fast"]
        assert all(np.isfinite(row["p50_ms"]) and row["of_bound"] is None for row in report["timings"])

    def test_table_with_another_model(self, doubling, capsys, monkeypatch):
        pytest.importorskip("onnxruntime", reason="needs onnxruntime")
        monkeypatch.setenv("COLUMNS", "80")
        assert main(["bench", "--backend", "fake", "--frames", "2", "--onnx", str(doubling("nchw"))]) == 0
        said = capsys.readouterr().out
        assert "240x320" in said
        rows = [line for line in said.splitlines() if line.strip().startswith(("sapnet_fast", "nchw.onnx"))]
        assert [row.split()[1] for row in rows] == ["fake", "openvino", "onnxruntime"]
        assert max(map(len, said.splitlines())) <= 80

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--shape", "240"],
            ["--backend", "caffe"],
            ["--backend", "torch:int8"],
            ["--backend", "torch:"],
            ["--frames", "0"],
            ["--layout", "chw"],
            ["--weights", "no_such_preset", "--backend", "torch"],
            ["--backend", "fake", "--onnx", "absent.onnx"],
        ],
    )
    def test_wrong_usage(self, arguments, capsys):
        assert main(["bench", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
