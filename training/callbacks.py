"""Lightning callbacks of a run: its end in good order, and its throughput."""

from __future__ import annotations

import math
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        # Processes that went on without the others would wait for them for ever.
        over = self._asked or time.monotonic() >= self._end
        trainer.should_stop |= trainer.strategy.reduce_boolean_decision(over, all=False)
        # Told to stop, Lightning validates first. After the last step it would not: the metrics would be of another.
        trainer.should_stop |= trainer.global_step >= trainer.max_steps

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Before the averaged weights take the place of those in training.
        trainer.save_checkpoint(self._checkpoint)

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

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._begin = self._free = time.monotonic()
        self._waited, self._steps = 0.0, 0

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Validation is neither training nor waiting.
        self.on_train_start(trainer, module)

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
