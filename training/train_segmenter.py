"""Trains the streak segmenter of the loss ``streaks`` on synthetic rain: ``python -m training.train_segmenter``."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from sapnet.commands.common import progress_bar
from sapnet.errors import CheckpointError, ImageFormatError, SapnetError
from sapnet.files import replacing
from training.arguments import parse_duration
from training.datasets.stream import worker_options
from training.datasets.synthetic import Sample, SyntheticRain, find_photographs
from training.fpn import BACKGROUND, STREAK, StreakFPN
from training.metrics import MaskCounts

SHIPPED = Path(__file__).resolve().parent / "weights" / "streak_fpn.safetensors"
_METADATA = "segmenter"
_HELD_OUT_EVERY = 10
_HELD_OUT_SAMPLES = 128


@dataclass(frozen=True)
class Settings:
    """Of a run.

    batch: crops per step; each is seen twice, rainy and dry. crop: side in pixels.
    max_time: seconds after which training ends, the learning rate having fallen as far as after all steps; 0 for no
        limit, and only then equal settings give equal weights.
    workers: processes that prepare samples; 0 prepares them in between.
    """

    steps: int = 2000
    batch: int = 8
    crop: int = 96
    lr: float = 3e-3
    seed: int = 0
    max_time: float = 0.0
    workers: int = 1

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("crop", 16), ("seed", 0), ("max_time", 0), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)!r}")
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr!r}")


def train(photographs: Sequence[Path], settings: Settings, progress: Progress | None = None) -> tuple[StreakFPN, int]:
    """A network trained on rain over ``photographs``, frozen for evaluation, and the number of steps that it took.

    The clean crops are part of every batch, so that the texture of a dry scene is not called rain.
    """
    samples = SyntheticRain(photographs, crop=settings.crop, seed=settings.seed, length=settings.steps * settings.batch)
    loader: DataLoader[Sample] = DataLoader(
        samples, settings.batch, generator=torch.Generator(), **worker_options(settings.workers)
    )
    network = StreakFPN(seed=settings.seed).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr)
    task = progress.add_task("streak segmenter", total=1.0) if progress else None
    start, step = time.monotonic(), 0
    for step, sample in enumerate(loader, 1):
        seconds = time.monotonic() - start
        done = max(step / settings.steps, seconds / settings.max_time if settings.max_time else 0.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 + math.cos(math.pi * min(done, 1.0))) / 2 + 1e-6
        images = torch.cat((sample["rainy"], sample["clean"]))
        target = torch.cat((sample["streaks"].long(), torch.full_like(sample["streaks"], BACKGROUND, dtype=torch.long)))
        loss = cross_entropy(network(images), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress and task is not None:
            progress.update(task, completed=done, description=f"streak segmenter, loss {loss.item():.3f}")
        if done >= 1:
            break
    return network.eval().requires_grad_(False), step


@torch.no_grad()
def score(network: StreakFPN, samples: Dataset[Sample]) -> dict[str, float]:
    """``f1`` and ``matthews`` of the streak masks, pixels of all samples pooled; ``dry``: share of the clean images'
    pixels that are called streaks."""
    counts, dry, pixels = MaskCounts(), 0, 0
    for sample in DataLoader(samples, batch_size=None, generator=torch.Generator()):
        rainy, clean = network(torch.stack((sample["rainy"], sample["clean"]))).argmax(1) == STREAK
        counts += MaskCounts.of(rainy.numpy(), sample["streaks"].numpy())
        dry, pixels = dry + int(clean.sum()), pixels + clean.numel()
    return {"f1": counts.f1, "matthews": counts.matthews, "dry": dry / pixels}


def save_segmenter(network: StreakFPN, path: Path, provenance: Mapping[str, object]) -> None:
    """Write the weights as safetensors, the shape of the network and ``provenance`` in the metadata.

    Raises CheckpointError where the file cannot be written.
    """
    metadata = {"config": {"channels": network.channels, "width": network.width}, **provenance}
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(save(state, {_METADATA: json.dumps(metadata, sort_keys=True)}))
    except SapnetError as err:
        raise CheckpointError(str(err)) from err


def load_segmenter(path: Path = SHIPPED) -> StreakFPN:
    """The network with its weights, on the CPU, frozen for evaluation; by default the one that comes with the package.

    Raises CheckpointError, which names the file and the first tensor that is wrong.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(_METADATA)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as err:
        raise CheckpointError(f"{path}: cannot be read as safetensors weights ({err}); {_REMEDY}") from err
    try:
        network = StreakFPN(**json.loads(metadata or "")["config"])
    except (ValueError, TypeError, KeyError, RuntimeError) as err:
        raise CheckpointError(
            f"{path}: its metadata has no {_METADATA!r} that describes a StreakFPN; {_REMEDY}"
        ) from err
    if problem := _problem(state, network.state_dict()):
        raise CheckpointError(f"{path}: {problem}; {_REMEDY}")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


_REMEDY = "give a file that training.train_segmenter wrote"


def _problem(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first thing that keeps ``state`` from being the network's; empty where there is none."""
    for key, wanted in expected.items():
        if key not in state:
            return f"tensor {key!r} is missing"
        got = state[key]
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            return f"tensor {key!r} is {got.dtype} {tuple(got.shape)}, expected {wanted.dtype} {tuple(wanted.shape)}"
        if not torch.isfinite(got).all():
            return f"tensor {key!r} holds NaN or infinite values"
    return next((f"tensor {key!r} is not one of this network's" for key in state if key not in expected), "")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m training.train_segmenter",
        description="Trains the streak segmenter of the loss term 'streaks', on rain synthesised over photographs.",
        epilog="example: python -m training.train_segmenter --clean datasets/train/clean --output streaks.safetensors",
    )
    parser.add_argument("--clean", required=True, type=Path, help="folder of clean photographs; a tenth is held out")
    parser.add_argument("--output", required=True, type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--max-time", type=parse_duration, default=0.0, metavar="[DD:]HH:MM:SS", help="end in good order then"
    )
    for name in ("steps", "batch", "crop", "seed", "workers"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help="default: %(default)s")
    args = vars(parser.parse_args(argv))
    clean, output = args.pop("clean"), args.pop("output")
    try:
        figures = run(clean, output, Settings(**args))
    except (SapnetError, ValueError) as err:
        print(f"train_segmenter: {err}", file=sys.stderr)
        return 2
    print(f"{output}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return 0


def run(clean: Path, output: Path, settings: Settings) -> dict[str, float]:
    """Train on nine tenths of the photographs in ``clean``, score on the others, save. Returns the figures."""
    _check_output(output)
    photographs = find_photographs(clean)
    held_out = photographs[::_HELD_OUT_EVERY]
    if len(held_out) == len(photographs):
        raise ImageFormatError(f"{clean}: holds one photograph, expected two or more: one is held out", kind="data")
    rest = [path for path in photographs if path not in set(held_out)]
    with progress_bar() as progress:
        network, steps = train(rest, settings, progress)
    samples = SyntheticRain(held_out, crop=settings.crop, seed=settings.seed + 1, length=_HELD_OUT_SAMPLES)
    figures = score(network, samples)
    save_segmenter(
        network, output, {**asdict(settings), "steps": steps, "data": clean.resolve().name, "held_out": figures}
    )
    return {"steps": steps, **figures}


def _check_output(path: Path) -> None:
    """Raise CheckpointError now where saving would fail after the training."""
    if path.suffix != ".safetensors" or path.is_dir():
        raise CheckpointError(f"{path}: expected the name of a .safetensors file; change it")
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(f"{path}: its folder does not exist or is not writable; make it or choose another")


if __name__ == "__main__":
    sys.exit(main())
