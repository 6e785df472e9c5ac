"""SAPNet in training, as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader

from sapnet.config import PRESETS
from sapnet.images.frame import psnr_y, to_frames, to_tensor, to_y
from sapnet.model.sapnet import SAPNet
from sapnet.model.weights import load_weights
from training.config import OptimizerConfig, TrainConfig
from training.datasets.paired import ImagePair, read_pair
from training.losses.combined import DerainingLoss
from training.losses.edge import edge_agreement
from training.metrics import ssim
from training.stream import Sample, Stream, make_loader

_SHOWN = 4  # images of a validation grid


class DerainingModule(L.LightningModule):
    """Trains a SAPNet on samples ``rainy``, ``clean``: (B, 3, H, W) RGB in [0, 1].

    Logs every term of the loss as ``train/<term>``, and of each validation set, after rounding to 8 bit, ``val/<set>/``
    ``psnr`` and ``ssim`` on Y and ``edges``, how well canny's edge map agrees with the clean image's; ``val/psnr`` is
    the sets' mean. The state is the network's alone.
    """

    def __init__(self, config: TrainConfig, stream: Stream, validation: Mapping[str, Sequence[ImagePair]]) -> None:
        """stream: of the whole run. validation: pairs of each validation set by its name; batches are their numbers."""
        super().__init__()
        self.config, self.stream, self.validation = config, stream, validation
        self.network = make_network(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._loss = DerainingLoss(config.loss)
        self._scores: dict[str, list[tuple[float, float, float]]] = {}

    def train_dataloader(self) -> DataLoader[Sample]:
        trainer = self.trainer
        return make_loader(self.stream, trainer.global_step, trainer.global_rank, trainer.world_size)

    def val_dataloader(self) -> list[DataLoader[int]]:
        return [DataLoader(range(len(pairs)), batch_size=None) for pairs in self.validation.values()]  # type: ignore[arg-type]

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        rainy = batch["rainy"].to(memory_format=torch.channels_last)
        terms = self._loss(self.network(rainy), rainy, batch["clean"])
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        return terms["loss"]

    def on_validation_epoch_start(self) -> None:
        self._scores = {name: [] for name in self.validation}

    def validation_step(self, index: int, batch_index: int, dataloader_idx: int = 0) -> None:
        name = list(self.validation)[dataloader_idx]
        pair = self.validation[name][index]
        rainy, clean = read_pair(pair)
        derained = to_frames(self.network.derain(to_tensor(rainy).to(self.device)))[0]
        edges = float(edge_agreement(to_tensor(derained), to_tensor(clean)))
        similarity = ssim(to_y(derained), to_y(clean))
        self._scores[name].append((psnr_y(derained, clean), similarity, edges))
        if index < _SHOWN:
            rgb = cv2.cvtColor(np.hstack([rainy, derained, clean]), cv2.COLOR_BGR2RGB)
            tensorboard: Any = self.logger
            tensorboard.experiment.add_image(f"val/{name}/{pair.name}", rgb, self.global_step, dataformats="HWC")

    def on_validation_epoch_end(self) -> None:
        means = {name: np.mean(scores, axis=0) for name, scores in self._scores.items()}
        for name, figures in means.items():
            for kind, figure in zip(("psnr", "ssim", "edges"), figures, strict=True):
                self.log(f"val/{name}/{kind}", float(figure), sync_dist=True)
        self.log("val/psnr", float(np.mean([psnr for psnr, *_ in means.values()])), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.config.optimizer
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, settings) / settings.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}


def make_network(config: TrainConfig) -> SAPNet:
    """The network to train: from ``config.init``, or with a random start that ``config.seed`` decides.

    Raises CheckpointError for weights that are damaged or of another preset.
    """
    preset = PRESETS[config.preset]
    if config.init:
        loaded = load_weights(config.init)
        if loaded.config.with_stages(preset.stages) != preset:
            raise ValueError(
                f"init: {config.init} holds {loaded.config}, expected weights of the preset {config.preset!r}: {preset}"
            )
        network = SAPNet(preset)
        network.load_state_dict(loaded.state_dict())
        return network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SAPNet(preset)


def rate(step: int, settings: OptimizerConfig) -> float:
    """Learning rate of a step: a line up to ``lr``, then half a cosine down to ``final_lr``."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.final_lr + (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2
