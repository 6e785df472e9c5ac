"""Training runs of a few steps: every configuration, resuming, several processes, wrong settings."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
import train_process
from torch.testing import assert_close

from picture_builders import flat, write_pair
from sapnet.config import PRESETS
from sapnet.errors import ImageFormatError
from sapnet.model.sapnet import SAPNet
from sapnet.model.weights import load_weights, read_metadata, save_weights
from training.config import DataConfig, OptimizerConfig, TrainConfig
from training.module import DerainingModule, make_network
from training.run import LAST, train, validation_pairs
from training.train import main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "configs"

Settings = Callable[..., TrainConfig]


@pytest.fixture
def settings(photographs: Path, pairs: Path, tmp_path: Path) -> Settings:
    """A TrainConfig of a tiny run in its own folder, with changes."""

    def make(output: str = "run", steps: int = 4, **changes: Any) -> TrainConfig:
        data = {"clean": str(photographs), "validation": (str(pairs),), "crop": 32, "final_crop": 32, "workers": 0}
        data |= {"batch": 2, **changes.pop("data", {})}
        fields: dict[str, Any] = {"precision": "32-true", "validate_every": 2, "checkpoint_every": 2, **changes}
        optimizer = OptimizerConfig(steps=steps, warmup=1)
        return TrainConfig(output=str(tmp_path / output), data=DataConfig(**data), optimizer=optimizer, **fields)

    return make


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_weights(path).state_dict())


@pytest.mark.parametrize("configs", [*([preset, "cpu"] for preset in PRESETS), ["sapnet", "refine", "cpu"]])
def test_two_steps_of_every_configuration(configs: list[str], photographs: Path, pairs: Path, tmp_path: Path) -> None:
    arguments = [argument for name in configs for argument in ("--config", str(CONFIGS / f"{name}.yaml"))]
    arguments += ["--data.clean", str(photographs), "--data.validation", json.dumps([str(pairs)])]
    arguments += ["--data.crop", "32", "--data.final_crop", "32", "--data.batch", "2", "--data.workers", "0"]
    arguments += ["--optimizer.steps", "2", "--optimizer.warmup", "1"]
    assert main([*arguments, "--init", "", "--output", str(tmp_path / "run")]) == 0
    path = tmp_path / "run" / "weights.safetensors"
    network = load_weights(path)
    metadata = read_metadata(path)
    assert json.loads(metadata["training_config"])["preset"] == configs[0]
    assert metadata["training"].startswith("2 of 2 steps of 2 crops of 32x32")
    assert metadata["command"].startswith("python -m training.train --config")
    assert json.loads(metadata["metrics"])["val/psnr"] > 5
    assert json.loads(metadata["metrics"])["step"] == 2
    assert json.loads(metadata["data"]) == {
        "photographs": {str(photographs): 5},
        "paired": {},
        "streaks": {},
        "validation": {pairs.name: 2},
    }
    start = make_network(TrainConfig(preset=configs[0])).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in network.state_dict().items())


def test_the_blend_alone_learns_between_two_trained_networks(settings: Settings, tmp_path: Path) -> None:
    fine = tmp_path / "fine.safetensors"
    torch.manual_seed(1)
    save_weights(SAPNet(PRESETS["sapnet_wacv2022"]), fine, {})
    chosen = {"preset": "sapnet", "init": str(fine), "init_coarse": "sapnet_fast", "learn": ("blend",)}
    got = tensors(train(settings(steps=1, **chosen)))
    kept = {**tensors(fine), **{f"coarse.{name}": value for name, value in tensors(Path("sapnet_fast")).items()}}
    assert_close({name: got[name] for name in kept}, kept, atol=0, rtol=0)
    start = make_network(TrainConfig(preset="sapnet")).state_dict()
    assert all(not torch.equal(got[name], start[name]) for name in got.keys() - kept.keys())
    for wrong in ({"init_coarse": str(fine)}, {"learn": ("blnd",)}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: .*expected"):
            make_network(settings(**{**chosen, **wrong}))


class Crash(Exception):
    """Stands for power that fails."""


def test_interrupted_and_resumed_equals_uninterrupted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(settings("whole", steps=6))
    config = settings("parts", steps=6)
    step = DerainingModule.training_step
    ends = iter(("signal", "crash"))

    def interrupted(module: DerainingModule, *arguments: Any) -> torch.Tensor:
        if module.global_step in (2, 5):
            if next(ends) == "crash":
                raise Crash
            # A service manager, as a terminal its Ctrl-C, sends it to all processes of the run.
            for process in active_children():
                os.kill(process.pid or 0, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DerainingModule, "training_step", interrupted)
        stopped = train(settings("parts", steps=6, data={"workers": 1}))
        assert read_metadata(stopped)["training"].startswith("3 of 6 steps")
        with pytest.raises(Crash):
            train(config, resume=True)
    # After a signal the run goes on from where it stopped, after a crash from the last checkpoint, of step 4.
    resumed = train(config, resume=True)
    assert read_metadata(resumed)["training"].startswith("6 of 6 steps")
    assert_close(tensors(whole), tensors(resumed), atol=0, rtol=0)


def test_two_processes_train_as_one_with_twice_the_batch(settings: Settings, pairs: Path, tmp_path: Path) -> None:
    # Without dense convolutions, so by AdamW alone: Muon iterates in bfloat16 and makes more of rounding.
    train(settings("one", steps=2, data={"batch": 2}, preset="sapnet_separable"))
    arguments = ["--config", str(tmp_path / "one" / "config.yaml"), "--data.batch", "1"]
    arguments += ["--output", str(tmp_path / "two")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Importing Lightning takes longer than all else: once, for both to be forked from.
    multiprocessing.set_forkserver_preload(["training.run"])
    processes = torch.multiprocessing.start_processes(
        train_process.run, (port, arguments), nprocs=2, join=False, start_method="forkserver"
    )
    while not processes.join():
        pass
    # Adam makes a hundredth of a step of what rounding does to a gradient of nearly 0.
    one, two = (tensors(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert_close(one, two, atol=5e-5, rtol=0)


def test_a_finished_run_is_left_alone_and_one_without_weights_gets_the_averaged_ones(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(steps=3)
    path = train(config)
    written, metadata, weights = path.read_bytes(), read_metadata(path), tensors(path)
    # Of the last step, though a validation comes every second one.
    assert json.loads(metadata["metrics"])["step"] == 3
    averaged = torch.load(Path(config.output) / LAST, weights_only=True)["state_dict"]
    assert_close({f"network.{name}": value for name, value in weights.items()}, averaged, atol=0, rtol=0)
    assert train(config, resume=True, command="again") == path
    assert path.read_bytes() == written
    assert f"the run is finished: its weights are at {path}" in capsys.readouterr().err
    path.unlink()
    train(config, resume=True)
    assert_close(tensors(path), weights, atol=0, rtol=0)
    assert read_metadata(path) == metadata


def test_validation_is_spread_over_every_set_though_folders_share_a_name(tmp_path: Path, settings: Settings) -> None:
    folders = tuple(str(tmp_path / camera / "pairs") for camera in ("front", "rear"))
    for folder, count in zip(folders, (10, 3), strict=True):
        for index in range(count):
            write_pair(Path(folder), f"{index}.png", flat(0, 16, 16), flat(0, 16, 16))
    found = validation_pairs(settings(data={"validation": folders, "validation_images": 4}))
    assert {name: [pair.name for pair in pairs] for name, pairs in found.items()} == {
        folders[0]: ["0", "3", "6", "9"],
        folders[1]: ["0", "1", "2"],
    }


def test_wrong_data_fail_before_training(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match="no such folder"):
        train(settings(data={"clean": str(tmp_path / "nowhere")}))
    with pytest.raises(ImageFormatError, match="expected at least 256x256"):
        train(settings(data={"crop": 256}))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageFormatError, match=r"a\.png"):
        train(settings(data={"clean": str(tmp_path / "damaged")}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "sapnet_slow"], "preset must be one of"),
        (["--optimizer.steps", "many"], "optimizer.steps"),
        (["--optimizer.momentum", "1"], "momentum"),
        (["--data.rain", "snow"], "data.rain must be one of"),
        (["--loss.distill", "1"], "loss.distill needs loss.teacher"),
        (["--loss.first_stage", "0", "--loss.last_stage", "0"], "no stage is trained"),
        (["--optimizer.steps", "10"], "optimizer.warmup must be 0 to 10, the steps, got 500"),
        (["--seed", "-1"], "seed must be 0 or more"),
        (["--max-time", "01:30"], 'Expected a string with form "h:m:s"'),
        (["--optimizer.final_lr", "1"], "expected 0 < optimizer.final_lr <= optimizer.lr"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_settings_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main([*arguments, "--output", str(tmp_path / "run")]))
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
