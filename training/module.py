"""SAPNet in training, as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from pytorch_optimizer import Muon
from torch import Tensor
from torch.utils.data import DataLoader

from sapnet.config import PRESETS
from sapnet.images.frame import psnr_y, to_tensor, to_y
from sapnet.model.deploy import DeployNet
from sapnet.model.sapnet import SAPNet
from sapnet.model.weights import load_weights
from training.config import OptimizerConfig, TrainConfig
from training.datasets.paired import ImagePair, read_pair
from training.losses.combined import DerainingLoss
from training.losses.edge import edge_agreement
from training.metrics import ssim
from training.stream import Sample, Stream, make_loader

_SHOWN = 4  # pairs of a validation set


class DerainingModule(L.LightningModule):
    """Trains a SAPNet on samples ``rainy``, ``clean``: (B, 3, H, W) RGB in [0, 1].

    Logs every term of the loss as ``train/<term>``, and of each validation set, after rounding to 8 bit, ``val/<set>/``
    ``psnr`` and ``ssim`` on Y and ``edges``, how well canny's edges agree with the clean image's; ``val/psnr`` is the
    sets' mean. The state is the network's alone.
    """

    def __init__(self, config: TrainConfig, stream: Stream, validation: Mapping[str, Sequence[ImagePair]]) -> None:
        """stream: of the whole run. validation: pairs of each validation set by its name; a batch is a set's name."""
        super().__init__()
        self.config, self.stream, self.validation = config, stream, validation
        self.network = make_network(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._loss = DerainingLoss(config.loss)

    def train_dataloader(self) -> DataLoader[Sample]:
        return make_loader(self.stream, self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[str]:
        return DataLoader(list(self.validation), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        rainy = batch["rainy"].to(memory_format=torch.channels_last)
        terms = self._loss(self.network(rainy), rainy, batch["clean"])
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        return terms["loss"]

    def validation_step(self, name: str, batch_index: int) -> None:
        scores, tensorboard, deploy = [], cast(Any, self.logger).experiment, DeployNet(self.network)
        for number, pair in enumerate(self.validation[name]):
            rainy, clean = read_pair(pair)
            derained = deploy(torch.from_numpy(rainy[None]).to(self.device))[0][0].cpu().numpy()
            if number < _SHOWN:
                rgb = cv2.cvtColor(np.hstack([rainy, derained, clean]), cv2.COLOR_BGR2RGB)
                tensorboard.add_image(f"val/{name}/{pair.name}", rgb, self.global_step, dataformats="HWC")
            edges = float(edge_agreement(to_tensor(derained), to_tensor(clean)))
            scores.append((psnr_y(derained, clean), ssim(to_y(derained), to_y(clean)), edges))
        means = dict(zip(("psnr", "ssim", "edges"), np.mean(scores, axis=0), strict=True))
        self.log("val/psnr", means["psnr"], prog_bar=True, batch_size=1, sync_dist=True)
        self.log_dict({f"val/{name}/{key}": mean for key, mean in means.items()}, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.config.optimizer
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        groups = [
            {"params": list(group), "use_muon": dense, "lr": settings.lr, "weight_decay": settings.weight_decay}
            for dense, group in groupby(sorted(learning, key=_is_dense), key=_is_dense)
        ]
        optimizer = Muon(groups, use_adjusted_lr=True, adamw_betas=(0.9, 0.999), adamw_eps=1e-8)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, settings) / settings.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}


def make_network(config: TrainConfig) -> SAPNet:
    """The network to train: from ``config.init``, or with a random start that ``config.seed`` decides.

    Only the parts that ``config.learn`` names have gradients; if it names none, all have. Raises CheckpointError for
    weights that are damaged, ValueError for those of another network and for a part that is none.
    """
    preset = PRESETS[config.preset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SAPNet(preset)
    if config.init:
        loaded = load_weights(config.init)
        expected = replace(preset, coarse=None) if config.init_coarse else preset
        if loaded.config.with_stages(preset.stages) != expected:
            raise ValueError(
                f"init: {config.init} holds {loaded.config}, expected weights of the preset {config.preset!r}"
                f"{', without the coarse network that init_coarse names' if config.init_coarse else ''}: {expected}"
            )
        network.load_state_dict(loaded.state_dict(), strict=not config.init_coarse)
    if config.init_coarse:
        loaded = load_weights(config.init_coarse)
        if loaded.config != preset.coarse:
            raise ValueError(f"init_coarse: {config.init_coarse} holds {loaded.config}, expected {preset.coarse}")
        network.coarse.load_state_dict(loaded.state_dict())
    parts = dict(network.named_children())
    if not parts.keys() >= set(config.learn):
        raise ValueError(f"learn: got {', '.join(config.learn)}, expected some of {', '.join(parts)}")
    for name, part in parts.items():
        part.requires_grad_(not config.learn or name in config.learn)
    return network


def _is_dense(parameter: Tensor) -> bool:
    """Whether it is the weight of a 3x3 convolution that mixes channels: a large matrix, as Muon is made for."""
    return parameter.ndim == 4 and parameter.shape[1] > 1 and parameter.shape[2] > 1


def rate(step: int, settings: OptimizerConfig) -> float:
    """Learning rate of a step: a line up to ``lr``, then half a cosine down to ``final_lr``."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.final_lr + (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2
