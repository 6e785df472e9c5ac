"""Every setting of a training run: typed, checked before anything starts, written in YAML (training/configs)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from sapnet.config import PRESETS
from training.datasets.augment import Augmentation
from training.datasets.curriculum import RAIN_KINDS

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class DataConfig:
    """What to learn from.

    clean: folder of clean photographs that rain is synthesised on; empty for none.
    paired: folders of rainy and clean pairs (``training.datasets.paired``), or of such folders.
    paired_share: share of the samples that each paired set gets, the photographs get the rest; 0 for equal shares.
    validation: likewise, to validate on; validation_images of each set, evenly spread.
    rain: kind of synthetic rain (``training.datasets.curriculum``).
    streaks: folders of pairs, made by adding streaks, whose streaks are laid on photographs, too
        (``training.datasets.layers``); streaks_share of the samples of photographs get them.
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
        if not (self.clean or self.paired):
            raise ValueError("data.clean and data.paired are both empty: name photographs or pairs to learn from")
        if not 0 <= self.paired_share < 1:
            raise ValueError(f"data.paired_share must be at least 0 and below 1, got {self.paired_share!r}")
        if not 0 <= self.streaks_share <= 1:
            raise ValueError(f"data.streaks_share must be 0 to 1, got {self.streaks_share!r}")
        if self.streaks and not self.clean:
            raise ValueError("data.streaks needs data.clean: name the photographs to lay the streaks on")
        if self.rain not in RAIN_KINDS:
            raise ValueError(f"data.rain must be one of {', '.join(RAIN_KINDS)}, got {self.rain!r}")
        for name in ("crop", "final_crop"):
            _check(f"data.{name}", getattr(self, name), 32)
        _check("data.batch", self.batch, 1)
        _check("data.workers", self.workers, 0)
        _check("data.validation_images", self.validation_images, 1)


@dataclass(frozen=True)
class LossConfig:
    """Weight of each term; 0 leaves it out.

    ssim: negative SSIM, of both published versions. l1: ours.
    edge, urss: canny edge loss and unsupervised rain streak segmentation, of the preprint of July 2021.
    ubs, pcl: unsupervised background segmentation and perceptual contrastive loss, of WACV 2022, 0.1 each there.
    distill: distance to a teacher's derained image; ours.
    first_stage, last_stage: weight of the first and the last stage's estimate in ssim and l1, those between on a line:
        early stages are usable on their own.
    backbone: ResNet of ``urss`` and ``ubs``, a name on the Hugging Face hub or a folder.
    vgg: path of torchvision's VGG16 weights, for ``pcl``.
    teacher: weights whose derained images ``distill`` follows (a preset or a path).
    What a term needs is not loaded if the term is left out.
    """

    ssim: float = 1.0
    l1: float = 1.0
    edge: float = 0.0
    urss: float = 0.0
    ubs: float = 0.0
    pcl: float = 0.0
    distill: float = 0.0
    first_stage: float = 0.5
    last_stage: float = 1.5
    backbone: str = "microsoft/resnet-18"
    vgg: str = ""
    teacher: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float | int) and value < 0:
                raise ValueError(f"loss.{one.name} must not be negative, got {value!r}")
        if not (self.ssim or self.l1):
            raise ValueError("loss.ssim and loss.l1 are both 0: nothing would pull towards the clean image")
        if not (self.first_stage or self.last_stage):
            raise ValueError("loss.first_stage and loss.last_stage are both 0: no stage would be trained")
        if self.distill and not self.teacher:
            raise ValueError("loss.distill needs loss.teacher: name the weights to follow")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, warmed up over ``warmup`` steps and then on a cosine from ``lr`` down to ``final_lr``.

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
        _check("optimizer.steps", self.steps, 1)
        _check("optimizer.warmup", self.warmup, 0)
        if self.warmup > self.steps:
            raise ValueError(f"optimizer.warmup must not be above optimizer.steps, got {self.warmup} of {self.steps}")
        if not 0 < self.final_lr <= self.lr:
            raise ValueError(f"expected 0 < optimizer.final_lr <= optimizer.lr, got {self.final_lr!r} and {self.lr!r}")
        if self.clip <= 0 or self.weight_decay < 0:
            raise ValueError("optimizer.clip must be above 0 and optimizer.weight_decay not below it")
        if not 0 <= self.ema < 1:
            raise ValueError(f"optimizer.ema must be 0 or more and below 1, got {self.ema!r}")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    preset: the network. init: weights to start from (a preset with shipped weights or a path); empty for none.
    output: folder of the run: ``weights.safetensors``, checkpoints and TensorBoard's events.
    validate_every, checkpoint_every: in steps.
    """

    preset: str = "sapnet_fast"
    init: str = ""
    output: str = "runs/sapnet_fast"
    seed: int = 0
    precision: str = "bf16-mixed"
    validate_every: int = 1000
    checkpoint_every: int = 1000
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        _check("seed", self.seed, 0)
        _check("validate_every", self.validate_every, 1)
        _check("checkpoint_every", self.checkpoint_every, 1)


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {value!r}")
