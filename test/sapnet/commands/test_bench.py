"""``sapnet bench``: backends and other models take turns, and are compared with what the machine can do."""

from __future__ import annotations

import json
from functools import partial

import pytest

from sapnet.cli import main
from sapnet.commands.bench import count_flop, measure, network, onnx_model
from sapnet.errors import BackendError

FAKE = partial(network, weights="sapnet_fast", backend="fake")


@pytest.fixture(scope="module")
def convolving(tmp_path_factory):
    """An ONNX model of float32 images, NCHW, whose height and width are free; one channel comes out."""
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("openvino", reason="needs openvino")
    text = """<ir_version: 8, opset_import: ["": 17]>
    one_channel (float[1, 3, height, width] x) => (float[1, 1, height, width] y)
    <float[1, 3, 1, 1] w = {1, 2, 3}> { y = Conv(x, w) }"""
    path = tmp_path_factory.mktemp("onnx") / "other.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_a_real_network_has_a_bound_and_rows_are_relative_to_the_first(tiny_weights):
    real = partial(network, weights=str(tiny_weights), backend="torch", precision="fp32", device="cpu")
    first, second = measure([FAKE, real], 24, 32, batch=2, frames=5)
    assert (first.weights, first.ratio, first.of_bound) == ("sapnet_fast", 1.0, None)
    assert (second.weights, second.backend) == (str(tiny_weights), "torch")
    assert (second.precision, second.stages) == ("fp32", 2)
    assert 0 < second.ratio < 1
    assert 0 < second.p5_ms <= second.p50_ms <= second.p95_ms
    assert second.fps == pytest.approx(2000 / second.p50_ms, rel=0.01)
    assert second.bound_ms > 0
    assert second.of_bound == pytest.approx(second.bound_ms / second.p50_ms, abs=0.01)


def test_a_wrong_layout_is_said(convolving):
    with pytest.raises(BackendError, match=r"other\.onnx: OpenVINO.*--layout"):
        measure([partial(onnx_model, path=convolving, layout="nhwc")], 20, 30, frames=1)


def test_arithmetic_of_the_vehicle_network():
    """By hand: multiplications of each pixel of 120x160, twice as FLOP; the attention's matrices are left out."""
    pixels, stages = 2 * 120 * 160, 4
    head, gates, body, tail = 9 * 24 * 32, 9 * 64 * 128, 10 * 9 * 32 * 32, 9 * 32 * 12
    saved = 9 * 12 * 32 + gates - 9 * 32 * 96  # in the first stage
    flop = 2 * pixels * (stages * (head + gates + body + tail) - saved)
    assert count_flop("sapnet_fast", 0, 2, 240, 320) == pytest.approx(flop, rel=1e-4)


class TestCommand:
    def test_json(self, capsys):
        arguments = ["--weights", "sapnet", "sapnet_fast", "--backend", "fake", "fake:fp32", "--shape", "20x30"]
        assert main(["bench", *arguments, "--frames", "3", "--batch", "2", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["shape"], report["batch"], report["frames"]) == ([20, 30], 2, 3)
        assert [row["weights"] for row in report["timings"]] == ["sapnet", "sapnet", "sapnet_fast", "sapnet_fast"]
        assert all(row["p50_ms"] > 0 and row["of_bound"] is None for row in report["timings"])

    def test_table_with_another_model(self, convolving, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        assert main(["bench", "--backend", "fake", "--frames", "2", "--onnx", str(convolving)]) == 0
        said = capsys.readouterr().out
        assert "240x320" in said
        rows = [line for line in said.splitlines() if line.strip().startswith(("sapnet_fast", "other.onnx"))]
        assert [row.split()[1] for row in rows] == ["fake", "openvino"]
        assert max(map(len, said.splitlines())) <= 80
