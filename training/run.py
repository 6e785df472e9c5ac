"""A training run from start to finish, or from where it was left."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from sapnet.files import replacing
from sapnet.memory import keep_freed_memory
from sapnet.model.weights import read_metadata, save_weights
from training.config import TrainConfig
from training.datasets.paired import ImagePair, check, find_sets
from training.losses.combined import TERMS
from training.module import DerainingModule
from training.stream import Stream

WEIGHTS = "weights.safetensors"
SETTINGS = "config.yaml"
LAST = Path("checkpoints") / "last.ckpt"


def train(config: TrainConfig, max_time: float = 0.0, resume: bool = False, command: str = "") -> Path:
    """Run, or go on with, a training; returns the file of its weights, the averaged ones if there are such.

    Ctrl-C and SIGTERM stop it in good order after the current step, like ``max_time`` (seconds of this call, 0 for no
    limit): a checkpoint and the weights so far are written. resume: from the newest checkpoint of ``config.output``; a
    finished run is left as it is. command: for the provenance. Under torchrun this is one of its processes.
    Raises SapnetError or ValueError before anything is trained.
    """
    output = Path(config.output)
    last = output / LAST
    if resume and not last.is_file():
        raise ValueError(f"resume: no checkpoint at {last}; start without it, or name the run's folder as output")
    if not resume and last.is_file():
        raise ValueError(f"{output} holds a run already: resume it, or choose another output")
    if resume and steps_done(output) >= config.optimizer.steps:
        print(f"the run is finished: its weights are at {output / WEIGHTS}", file=sys.stderr)
        return output / WEIGHTS
    if not torch.cuda.is_available():
        keep_freed_memory()
    L.seed_everything(config.seed, verbose=False)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    validation = validation_pairs(config)
    module = DerainingModule(config, Stream(config.data, config.optimizer.steps, processes, config.seed), validation)
    trainer = _trainer(config, processes, max_time)
    if trainer.is_global_zero:
        with replacing(output / SETTINGS) as temporary:
            temporary.write_text(yaml.safe_dump(plain(config), sort_keys=False))
    with warnings.catch_warnings():
        # The stream starts where the run has come to, which Lightning cannot know.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        begin: dict[str, Any] = torch.load(last, "cpu", weights_only=True) if resume else {"global_step": 0}
        trainer.fit(module, ckpt_path=last if resume else None, weights_only=True)
        if begin["global_step"] >= config.optimizer.steps:
            # Killed before its weights were written. Lightning has no step to do and leaves the ones in training.
            module.load_state_dict(begin["state_dict"])
            trainer.validate(module, verbose=False)
    if trainer.is_global_zero:
        save_weights(module.network, output / WEIGHTS, _provenance(trainer, module, command))
    return output / WEIGHTS


def steps_done(output: Path) -> int:
    """Steps behind the weights that a run has written to its folder, 0 without such. Raises SapnetError."""
    path = output / WEIGHTS
    return int(json.loads(read_metadata(path)["metrics"])["step"]) if path.is_file() else 0


def validation_pairs(config: TrainConfig) -> dict[str, list[ImagePair]]:
    """Of each validation set, by its name, as many pairs as are wanted, evenly spread over it.

    Raises ImageFormatError for pairs that cannot be used.
    """
    chosen = {}
    for name, pairs in find_sets(config.data.validation).items():
        places = np.linspace(0, len(pairs) - 1, min(config.data.validation_images, len(pairs)))
        chosen[name] = [pairs[int(place)] for place in places]
        check(chosen[name])
    return chosen


def plain(config: TrainConfig) -> dict[str, Any]:
    """Settings as YAML and JSON hold them."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return settings


class StopInOrder(L.Callback):
    """The first Ctrl-C or SIGTERM, to any process of a run, ends all of them after their step; a second acts as ever.

    Set up once Lightning has set up its own handling, which would break off the run without writing anything.
    checkpoint: the file that is written at the end, whatever ended the run.
    max_time: seconds of training after which the run ends likewise, however long it ran before it was resumed, which
    Lightning's own timer would count; 0 for no limit.
    """

    def __init__(self, checkpoint: Path, max_time: float) -> None:
        self._checkpoint = checkpoint
        self._max_time = max_time or math.inf
        self._asked = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._end = time.monotonic() + self._max_time
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        # Processes that went on without the others would wait for them for ever.
        over = self._asked or time.monotonic() >= self._end
        trainer.should_stop |= trainer.strategy.reduce_boolean_decision(over, all=False)
        # Told to stop, Lightning validates first. After the last step it would not: the metrics would be of another.
        trainer.should_stop |= trainer.global_step >= trainer.max_steps

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Before the averaged weights take the place of those in training.
        trainer.save_checkpoint(self._checkpoint, weights_only=False)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(number, self._before.pop(number))


class Throughput(L.Callback):
    """Logs ``time/steps_per_s`` and ``time/data_share``, the share of time that steps waited for samples.

    every: steps between two entries. Without a terminal, and so without a progress bar, each entry is a line on stderr.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin = self._free = time.monotonic()
        self._waited, self._steps = 0.0, 0

    on_validation_end = on_train_start  # validation is neither training nor waiting

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self._waited += time.monotonic() - self._free

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self._free = time.monotonic()
        self._steps += 1
        if self._steps == self.every:
            taken_s = self._free - self._begin
            figures = {"time/steps_per_s": self._steps / taken_s, "time/data_share": self._waited / taken_s}
            if trainer.logger is not None:
                trainer.logger.log_metrics(figures, trainer.global_step)
            if trainer.is_global_zero and not sys.stderr.isatty():
                shown: dict[str, Any] = {**trainer.callback_metrics, **figures}
                names = ("train/loss", "val/psnr", *figures)
                said = "  ".join(f"{name} {float(shown[name]):.4g}" for name in names if name in shown)
                print(f"step {trainer.global_step} of {trainer.max_steps}  {said}", file=sys.stderr)
            self.on_train_start(trainer, module)


def _trainer(config: TrainConfig, processes: int, max_time: float) -> L.Trainer:
    output = Path(config.output)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    callbacks: list[L.Callback] = [
        StopInOrder(output / LAST, max_time),
        ModelCheckpoint(
            (output / LAST).parent,
            save_top_k=0,
            save_last=True,
            every_n_train_steps=config.checkpoint_every,
            enable_version_counter=False,
        ),
        LearningRateMonitor("step"),
        Throughput(every=min(50, config.optimizer.steps)),
    ]
    if config.optimizer.ema:
        callbacks.append(EMAWeightAveraging(decay=config.optimizer.ema))
    if sys.stderr.isatty():
        callbacks.append(RichProgressBar())
    # Its hints at other products of its makers.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
    return L.Trainer(
        accelerator="auto",
        devices=here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        precision=config.precision,
        max_steps=config.optimizer.steps,
        gradient_clip_val=config.optimizer.clip,
        val_check_interval=min(config.validate_every, config.optimizer.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(output, name="", version="tensorboard"),
        log_every_n_steps=min(20, config.optimizer.steps),
        callbacks=callbacks,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
    )


def _provenance(trainer: L.Trainer, module: DerainingModule, command: str) -> dict[str, str]:
    """Everything that made the weights."""
    config, data = module.config, module.config.data
    scores = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if name[:4] == "val/"}
    photographs = {data.clean: module.stream.photographs} if data.clean else {}
    sets = {"paired": module.stream.pairs, "streaks": module.stream.streaks, "validation": module.validation}
    counts = {
        kind: {name: len(images) for name, images in of_kind.items()}
        for kind, of_kind in {"photographs": photographs, **sets}.items()
    }
    source = " and ".join(filter(None, (config.init, config.init_coarse))) or "scratch"
    terms = {name: getattr(config.loss, name) for name in TERMS if getattr(config.loss, name)}
    return {
        "training": (
            f"{trainer.global_step} of {config.optimizer.steps} steps of {data.batch * trainer.world_size} crops of "
            f"{data.crop}x{data.crop}, {data.final_crop}x{data.final_crop} in the last tenth; loss "
            f"{' + '.join(f'{weight:g} {name}' for name, weight in terms.items())}; from {source}"
        ),
        "training_config": json.dumps(plain(config)),
        "data": json.dumps(counts),
        "metrics": json.dumps({"step": trainer.global_step, **scores}),
        "commit": _commit(),
        "command": command,
    }


def _commit() -> str:
    """The checkout's commit, marked if files differ from it; empty outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    root = Path(__file__).resolve().parents[1]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
