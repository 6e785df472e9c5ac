"""Train SAPNet weights: ``python -m training.train --config training/configs/sapnet_fast.yaml``."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from training.commands import command_line, one_line_errors
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
  python -m training.train --config training/configs/sapnet_wacv2022.yaml --init sapnet_wacv2022.pth --optimizer.lr 2e-4
  python -m training.train --config training/configs/sapnet.yaml --init sapnet_wacv2022.pth
  python -m training.train --config runs/sapnet_fast/config.yaml --resume
  torchrun --nproc-per-node 8 -m training.train --config training/configs/sapnet_fast.yaml

While it runs: tensorboard --logdir runs. Ctrl-C stops it after the current step, and --resume goes on from there.
"""


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the examples."""


def config_parser(name: str, description: str | None, epilog: str) -> ArgumentParser:
    """Of ``python -m training.NAME``: every field of TrainConfig by its name, and files of them."""
    parser = ArgumentParser(
        prog=f"python -m training.{name}", description=description, epilog=epilog, formatter_class=_HelpFormatter
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; a later one wins over an earlier")
    parser.add_class_arguments(TrainConfig)
    return parser


def read_config(parser: ArgumentParser, settings: Namespace) -> TrainConfig:
    """The settings as a checked TrainConfig. Raises ValueError."""
    made: Any = parser.instantiate(settings)
    return TrainConfig(**{name: made[name] for name in TrainConfig.__dataclass_fields__})


@one_line_errors("train")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = config_parser("train", __doc__, EPILOG)
    help_ = "stop in good order after this time"
    parser.add_argument("--max-time", type=timedelta, default=timedelta(), metavar="HH:MM:SS", help=help_)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in output")
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    settings: Namespace = parser.parse_args(argv)
    # Lightning takes seconds to import: after the arguments are known to be right.
    from training.run import train

    config, command = read_config(parser, settings), command_line("train", argv)
    print(train(config, settings.max_time.total_seconds(), settings.resume, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
