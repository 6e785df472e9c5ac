from __future__ import annotations

import json

import pytest

from sapnet.bench import Candidate, measure, steps
from sapnet.cli import main
from sapnet.errors import BackendError, CheckpointError

FAKE = Candidate("sapnet_fast", "fake")


class TestMeasure:
    def test_figures_belong_together(self):
        timings = measure([FAKE, Candidate("sapnet", "fake", stages=2)], 20, 30, batch=3, frames=5)
        assert [(timing.weights, timing.stages) for timing in timings] == [("sapnet_fast", 4), ("sapnet", 2)]
        assert timings[0].ratio == 1
        for timing in timings:
            assert (timing.backend, timing.precision) == ("fake", "fp32")
            assert 0 < timing.p50_ms <= timing.p95_ms
            assert timing.fps > 0

    def test_reports_every_step(self):
        taken = []
        measure([FAKE, FAKE], 16, 16, frames=4, on_step=lambda: taken.append(1))
        assert len(taken) == steps(2, 4) == 10

    def test_what_cannot_run_is_an_error(self):
        with pytest.raises(BackendError, match="tensorrt"):
            measure([FAKE, Candidate("sapnet_fast", "tensorrt")], 16, 16, frames=1)

    def test_a_real_network(self, tiny_weights):
        (timing,) = measure([Candidate(str(tiny_weights), "torch", "fp32", "cpu")], 16, 18, frames=2)
        assert (timing.backend, timing.precision, timing.stages) == ("torch", "fp32", 2)


class TestCommand:
    def test_json(self, capsys):
        arguments = ["--weights", "sapnet", "sapnet_fast", "--backend", "fake", "fake:fp32", "--shape", "20x30"]
        assert main(["bench", *arguments, "--frames", "3", "--batch", "2", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["shape"], report["batch"], report["frames"]) == ([20, 30], 2, 3)
        assert [row["weights"] for row in report["timings"]] == ["sapnet", "sapnet", "sapnet_fast", "sapnet_fast"]
        assert {"p50_ms", "p95_ms", "fps", "ratio", "device", "stages"} <= set(report["timings"][0])

    def test_table(self, capsys):
        assert main(["bench", "--backend", "fake", "--frames", "2"]) == 0
        said = capsys.readouterr().out
        assert "240x320" in said
        assert "fake" in said

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--shape", "240"],
            ["--backend", "caffe"],
            ["--backend", "torch:int8"],
            ["--backend", "torch:"],
            ["--frames", "0"],
            ["--weights", "no_such_preset", "--backend", "torch"],
        ],
    )
    def test_wrong_usage(self, arguments, capsys):
        assert main(["bench", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1

    def test_weights_are_read_by_the_backends_that_need_them(self, tmp_path):
        with pytest.raises(CheckpointError, match="absent"):
            measure([Candidate(str(tmp_path / "absent.pth"), "torch")], 16, 16)
