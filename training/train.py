"""Train SAPNet weights: ``python -m training.train --config training/configs/sapnet_fast.yaml``."""

from __future__ import annotations

import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from training.commands import one_line_errors
from training.config import TrainConfig

EPILOG = """
A run needs clean photographs (data.clean: rain is synthesised on them) or pairs (data.paired), and pairs to validate on
(data.validation). Where nothing else is said, photographs are in datasets/train/clean and sets to validate on in
datasets/test/<set>. Pairs to learn from may lie beside the photographs: --data.paired '["datasets/train"]' takes them.
training/config.py says what each setting does.

examples:
  python -m training.train --config training/configs/sapnet_fast.yaml --data.clean photographs
  python -m training.train --config training/configs/sapnet_fast.yaml --config training/configs/cpu.yaml \\
      --max-time 01:30:00
  python -m training.train --config training/configs/sapnet.yaml --init sapnet_wacv2022.pth --optimizer.lr 2e-4
  python -m training.train --config runs/sapnet_fast/config.yaml --resume
  torchrun --nproc-per-node 8 -m training.train --config training/configs/sapnet_fast.yaml

While it runs: tensorboard --logdir runs. Ctrl-C stops it after the current step, and --resume goes on from there.
"""


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the examples."""


def make_parser() -> ArgumentParser:
    """Options: every field of TrainConfig by its name, files of them, and how to run."""
    parser = ArgumentParser(
        prog="python -m training.train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; a later one wins over an earlier")
    help_ = "stop in good order after this time"
    parser.add_argument("--max-time", type=timedelta, default=timedelta(), metavar="HH:MM:SS", help=help_)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in output")
    parser.add_class_arguments(TrainConfig)
    return parser


@one_line_errors("train")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    settings: Namespace = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "training.train", *argv])
    # Lightning takes seconds to import: after the arguments are known to be right.
    from training.run import train

    print(train(read_config(parser, settings), settings.max_time.total_seconds(), settings.resume, command))
    return 0


def read_config(parser: ArgumentParser, settings: Namespace) -> TrainConfig:
    """The settings as a checked TrainConfig. Raises ValueError."""
    made: Any = parser.instantiate(settings)
    return TrainConfig(**{name: made[name] for name in TrainConfig.__dataclass_fields__})


if __name__ == "__main__":
    sys.exit(main())
