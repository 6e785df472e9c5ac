"""How fast a run is, and whether it waits for data."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L


class Throughput(L.Callback):
    """Logs ``time/steps_per_s`` and ``time/data_share``, the share of time that steps waited for samples.

    every: steps between two entries. Without a terminal, and so without a progress bar, each entry is a line on stderr.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._begin = self._free = time.monotonic()
        self._waited, self._steps = 0.0, 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restart()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self._waited += time.monotonic() - self._free

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self._free = time.monotonic()
        self._steps += 1
        if self._steps == self.every:
            figures = {
                "time/steps_per_s": self._steps / (self._free - self._begin),
                "time/data_share": self._waited / (self._free - self._begin),
            }
            if trainer.logger is not None:
                trainer.logger.log_metrics(figures, trainer.global_step)
            if trainer.is_global_zero and not sys.stderr.isatty():
                print(self._line(trainer, *figures.values()), file=sys.stderr)
            self._restart()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Validation is neither training nor waiting.
        self._restart()

    def _restart(self) -> None:
        self._begin = self._free = time.monotonic()
        self._waited, self._steps = 0.0, 0

    def _line(self, trainer: L.Trainer, steps_per_s: float, data_share: float) -> str:
        shown = {name: trainer.callback_metrics.get(name) for name in ("train/loss", "val/psnr")}
        values = "".join(f"  {name} {float(value):.4f}" for name, value in shown.items() if value is not None)
        speed = f"{steps_per_s:.2f} steps/s, {100 * data_share:.0f} % waiting for data"
        return f"step {trainer.global_step} of {trainer.max_steps}{values}  {speed}"
