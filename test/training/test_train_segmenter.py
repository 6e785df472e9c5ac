"""Training of the streak segmenter on a handful of made-up photographs, and its files."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from sapnet.errors import CheckpointError, ImageFormatError
from training.datasets.synthetic import SyntheticRain
from training.fpn import StreakFPN
from training.train_segmenter import Settings, load_segmenter, main, run, save_segmenter, score, train

QUICK = Settings(steps=3, batch=2, crop=32, workers=0)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for index in range(4):
        coarse = rng.integers(0, 180, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture
def saved(tmp_path):
    """A file of an untrained network."""
    save_segmenter(StreakFPN(seed=5), tmp_path / "streaks.safetensors", {"seed": 5})
    return tmp_path / "streaks.safetensors"


class TestTraining:
    def test_finds_streaks(self, photographs):
        paths = sorted(photographs.iterdir())
        samples = SyntheticRain(paths, kind="heavy", crop=32, seed=9, length=8)
        settings = replace(QUICK, steps=40)
        trained, steps = train(paths, settings)
        assert steps == 40
        assert not trained.training
        assert score(trained, samples)["matthews"] > 0.05 > score(StreakFPN().eval(), samples)["matthews"]

    def test_equal_settings_give_equal_weights(self, photographs):
        paths = sorted(photographs.iterdir())
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        one, other, another = (
            train(paths, settings)[0].state_dict() for settings in (QUICK, QUICK, replace(QUICK, seed=1))
        )
        assert torch.equal(torch.rand(1), expected)
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert not torch.equal(one["pyramid.classify.weight"], another["pyramid.classify.weight"])

    def test_ends_in_time(self, photographs):
        _, steps = train(sorted(photographs.iterdir()), replace(QUICK, max_time=1e-9))
        assert steps == 1

    @pytest.mark.parametrize("wrong", [{"steps": 0}, {"crop": 8}, {"seed": -1}, {"max_time": -1.0}, {"lr": 0.0}])
    def test_wrong_settings(self, wrong):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            Settings(**wrong)


def test_score_of_a_known_network():
    class Everything(StreakFPN):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.stack((torch.zeros_like(image[:, 0]), torch.ones_like(image[:, 0])), 1)

    streaks = torch.zeros(4, 4, dtype=torch.bool)
    streaks[:, 0] = True
    sample = {"rainy": torch.zeros(3, 4, 4), "clean": torch.zeros(3, 4, 4), "streaks": streaks}
    assert score(Everything(), [sample] * 2) == {"f1": pytest.approx(0.4), "matthews": 0.0, "dry": 1.0}


class TestFile:
    def test_comes_back_frozen(self, saved):
        network = load_segmenter(saved)
        image = torch.rand(1, 3, 20, 20)
        assert torch.equal(network(image), StreakFPN(seed=5).eval()(image))
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_keeps_the_shape_of_the_network(self, tmp_path):
        save_segmenter(StreakFPN((4, 8), width=6), tmp_path / "small.safetensors", {})
        small = load_segmenter(tmp_path / "small.safetensors")
        assert (small.channels, small.width) == ((4, 8), 6)

    def test_equal_networks_give_equal_bytes(self, saved, tmp_path):
        again = tmp_path / "again.safetensors"
        save_segmenter(load_segmenter(saved), again, {"seed": 5})
        assert again.read_bytes() == saved.read_bytes()

    def test_the_shipped_one_loads(self):
        network = load_segmenter()
        assert network(torch.rand(1, 3, 16, 16)).shape == (1, 2, 16, 16)

    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"none\.safetensors: cannot be read"):
            load_segmenter(tmp_path / "none.safetensors")

    def test_damaged(self, saved):
        saved.write_bytes(saved.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_segmenter(saved)

    @pytest.mark.parametrize("metadata", [None, {"segmenter": "{}"}, {"segmenter": '{"config": {"channels": "x"}}'}])
    def test_of_something_else(self, saved, metadata):
        save_file(load_file(saved), saved, metadata)
        with pytest.raises(CheckpointError, match="describes a StreakFPN"):
            load_segmenter(saved)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda state: state.pop("pyramid.smooth.bias"), "'pyramid.smooth.bias' is missing"),
            (lambda state: state.update({"pyramid.smooth.bias": torch.zeros(3)}), r"\(3,\), expected torch.float32"),
            (lambda state: state.update({"pyramid.smooth.bias": torch.full((16,), torch.nan)}), "holds NaN"),
            (lambda state: state.update({"more": torch.zeros(1)}), "'more' is not one of"),
        ],
    )
    def test_first_wrong_tensor_is_named(self, saved, change, problem):
        with safe_open(saved, "pt") as file:
            metadata = file.metadata()
        state = load_file(saved)
        change(state)
        save_file(state, saved, metadata)
        with pytest.raises(CheckpointError, match=rf"streaks\.safetensors: tensor .*{problem}"):
            load_segmenter(saved)


class TestCommand:
    def arguments(self, photographs, output, *more: str) -> list[str]:
        small = ["--steps", "2", "--batch", "2", "--crop", "32", "--workers", "0"]
        return ["--clean", str(photographs), "--output", str(output), *small, *more]

    def test_writes_weights_that_say_what_they_are(self, photographs, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("training.train_segmenter._HELD_OUT_SAMPLES", 4)
        output = tmp_path / "streaks.safetensors"
        assert main(self.arguments(photographs, output, "--seed", "7", "--max-time", "00:01:00:00")) == 0
        assert "matthews" in capsys.readouterr().out
        with safe_open(output, "pt") as file:
            said = json.loads(file.metadata()["segmenter"])
        assert (said["seed"], said["steps"], said["max_time"], said["data"]) == (7, 2, 3600, photographs.name)
        assert said["held_out"].keys() == {"f1", "matthews", "dry"}
        assert load_segmenter(output).channels == (16, 32, 48, 64)

    @pytest.mark.parametrize(
        ("clean", "output", "more", "line"),
        [
            ("none", "a.safetensors", (), "no such folder"),
            ("", "a.pth", (), "expected the name of a .safetensors file"),
            ("", "none/a.safetensors", (), "folder does not exist"),
            ("", "a.safetensors", ("--steps", "0"), "steps must be 1 or more, got 0"),
        ],
    )
    def test_wrong_input_is_one_line_and_status_2(self, photographs, tmp_path, capsys, clean, output, more, line):
        assert main(self.arguments(photographs / clean, tmp_path / output, *more)) == 2
        error = capsys.readouterr().err
        assert line in error
        assert len(error.splitlines()) == 1

    def test_one_photograph_is_too_few(self, photographs, tmp_path):
        (tmp_path / "0.png").write_bytes((photographs / "0.png").read_bytes())
        with pytest.raises(ImageFormatError, match="expected two or more"):
            run(tmp_path, tmp_path / "a.safetensors", QUICK)
