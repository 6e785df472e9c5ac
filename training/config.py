"""Every setting of a training run: typed, checked before anything starts, written in YAML (training/configs)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sapnet.config import PRESETS
from training.datasets.curriculum import DRY, MIXED, RAIN_KINDS


@dataclass(frozen=True)
class Augmentation:
    """What varies besides rain: probabilities in [0, 1], and how far each goes.

    mirror: left and right, and upside down, each. gamma: exponents up to 1.4 either way.
    noise: of the scene, up to ``noise_sigma`` of 255. develop: a tone curve and a sharpness, of scene and rain alike.
    jpeg: of the rainy image alone, quality 70 to 95.
    dry: of pairs, that the clean image stands for the rainy one; synthetic rain has its own share of dry samples.
    """

    mirror: float = 0.5
    gamma: float = 0.3
    noise: float = 0.1
    noise_sigma: float = 4.0
    develop: float = 0.35
    jpeg: float = 0.08
    dry: float = MIXED[DRY]

    def __post_init__(self) -> None:
        for name in ("mirror", "gamma", "noise", "develop", "jpeg", "dry"):
            share = getattr(self, name)
            _check(0 <= share <= 1, f"data.augmentation.{name} is a probability and must be 0 to 1", share)
        _check_least(self, "data.augmentation.", noise_sigma=0)


@dataclass(frozen=True)
class DataConfig:
    """What to learn from.

    clean: folder of clean photographs that rain is synthesised on; empty for none.
    paired: folders of rainy and clean pairs (``training.datasets.paired``), or of such folders.
    paired_share: share of the samples that each paired set gets, the photographs get the rest; 0 for equal shares.
    validation: likewise, to validate on; validation_images of each set, evenly spread.
    rain: kind of synthetic rain (``training.datasets.curriculum``).
    streaks: folders of pairs, made by adding streaks, whose streaks are laid on photographs, too
        (``training.augment``); streaks_share of the samples of photographs get them.
    crop, batch: side of a crop in pixels, crops per step and process. final_crop: side in the last tenth of the steps,
        because the attention pools over the whole image and a camera frame is larger than a crop.
    workers: processes that prepare samples; 0 prepares them in between.
    """

    clean: str = "datasets/train/clean"
    paired: tuple[str, ...] = ()
    paired_share: float = 0.0
    validation: tuple[str, ...] = ("datasets/test",)
    validation_images: int = 8
    rain: str = "mixed"
    streaks: tuple[str, ...] = ()
    streaks_share: float = 0.5
    crop: int = 128
    final_crop: int = 192
    batch: int = 16
    workers: int = 8
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        _check(self.clean or self.paired, "data.clean and data.paired are both empty: name photographs or pairs")
        _check(self.clean or not self.streaks, "data.streaks needs data.clean: name photographs to lay the streaks on")
        _check(self.rain in RAIN_KINDS, f"data.rain must be one of {', '.join(RAIN_KINDS)}", self.rain)
        _check(0 <= self.paired_share < 1, "data.paired_share must be at least 0 and below 1", self.paired_share)
        _check(0 <= self.streaks_share <= 1, "data.streaks_share must be 0 to 1", self.streaks_share)
        _check_least(self, "data.", crop=32, final_crop=32, batch=1, workers=0, validation_images=1)


@dataclass(frozen=True)
class LossConfig:
    """Weight of each term; 0 leaves it out.

    ssim: negative SSIM, of both published versions. l1: ours. log_mse: a tenth of the negative PSNR; ours.
    edge, urss: edge loss and unsupervised rain streak segmentation, of the preprint of July 2021.
    ubs, pcl: unsupervised background segmentation and perceptual contrastive loss, of WACV 2022, 0.1 each there.
    distill: distance to a teacher's derained image, of samples to which rain adds distill_from or more, in the mean
        over the image: a teacher that knows heavy rain alone is followed there alone; ours.
    first_stage, last_stage: weight of the first and the last stage's estimate in ssim, l1 and log_mse, those between on
        a line: early stages are usable on their own.
    backbone: ResNet of ``urss`` and ``ubs``, a name on the Hugging Face hub or a folder.
    vgg: path of torchvision's VGG16 weights, for ``pcl``.
    teacher: weights whose derained images ``distill`` follows (a preset or a path).
    What a term needs is not loaded if the term is left out.
    """

    ssim: float = 1.0
    l1: float = 1.0
    log_mse: float = 0.0
    edge: float = 0.0
    urss: float = 0.0
    ubs: float = 0.0
    pcl: float = 0.0
    distill: float = 0.0
    distill_from: float = 0.0
    first_stage: float = 0.5
    last_stage: float = 1.5
    backbone: str = "microsoft/resnet-18"
    vgg: str = ""
    teacher: str = ""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if not isinstance(value, str)}
        _check(min(numbers.values()) >= 0, "the weights of loss must not be negative", numbers)
        _check(
            self.ssim or self.l1 or self.log_mse,
            "loss.ssim, l1 and log_mse are all 0: nothing would pull towards the clean image",
        )
        _check(self.first_stage or self.last_stage, "loss.first_stage and last_stage are both 0: no stage is trained")
        _check(self.teacher or not self.distill, "loss.distill needs loss.teacher: name the weights to follow")


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon for the weights of dense 3x3 convolutions, AdamW for the rest.

    Muon (Jordan et al., 2024) steps along the orthogonalized momentum, here as far as AdamW would (Liu et al., 2025).
    The rate is warmed up over ``warmup`` steps and then falls on a cosine from ``lr`` to ``final_lr``.
    clip: largest norm of the gradient. ema: decay of the averaged weights, the ones that are kept; 0 for none.
    """

    steps: int = 60_000
    lr: float = 1e-3
    final_lr: float = 1e-6
    warmup: int = 500
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        _check_least(self, "optimizer.", steps=1, weight_decay=0)
        _check(0 <= self.warmup <= self.steps, f"optimizer.warmup must be 0 to {self.steps}, the steps", self.warmup)
        rates = (self.final_lr, self.lr)
        _check(0 < self.final_lr <= self.lr, "expected 0 < optimizer.final_lr <= optimizer.lr", rates)
        _check(self.clip > 0, "optimizer.clip must be above 0", self.clip)
        _check(0 <= self.ema < 1, "optimizer.ema must be 0 or more and below 1", self.ema)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    preset: the network. init: weights to start from (a preset with shipped weights or a path); empty for none. If
        init_coarse names weights of the coarse network, those of init are without it.
    learn: parts of the network that learn, of head, lstm, blocks, tail, coarse and blend; empty for all.
    output: folder of the run: ``weights.safetensors``, checkpoints and TensorBoard's events.
    validate_every, checkpoint_every: in steps.
    """

    preset: str = "sapnet_fast"
    init: str = ""
    init_coarse: str = ""
    learn: tuple[str, ...] = ()
    output: str = "runs/sapnet_fast"
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    validate_every: int = 1000
    checkpoint_every: int = 1000
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        _check(self.preset in PRESETS, f"preset must be one of {', '.join(PRESETS)}", self.preset)
        _check_least(self, "", seed=0, validate_every=1, checkpoint_every=1)


def _check(holds: object, expected: str, got: object = None) -> None:
    if not holds:
        raise ValueError(expected if got is None else f"{expected}, got {got!r}")


def _check_least(settings: object, section: str, **least: int) -> None:
    for name, lowest in least.items():
        got = getattr(settings, name)
        _check(got >= lowest, f"{section}{name} must be {lowest} or more", got)
