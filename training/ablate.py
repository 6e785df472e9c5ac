"""What a term of the loss is worth: short runs with and without it, over several seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sapnet.errors import SapnetError
from sapnet.model.weights import read_metadata
from training.commands import command_line, one_line_errors, table
from training.config import TrainConfig
from training.train import config_parser, read_config

DEFAULT_TERMS = ("edge=0.2", "urss=0.1", "ubs=0.1", "pcl=0.1")
NEEDED_DB = 0.1
EPILOG = f"""
Each seed is trained once without and once with every term; a term's worth is the mean difference of val/psnr. One that
wins less than {NEEDED_DB} dB does not pay for itself. A run in OUTPUT is not repeated if it has finished with equal
settings, and resumed if it has not finished. Ctrl-C stops the run and all that would follow.
"""


def ablate(
    config: TrainConfig, terms: Mapping[str, float], seeds: Sequence[int], command: str
) -> dict[str, list[float]]:
    """val/psnr in dB of the run of each seed: ``none`` without any of ``terms``, and each term alone with its weight.

    config: of the runs, which go to folders in its output. Raises SapnetError or ValueError, also where a run was
    stopped: with equal arguments the next call goes on from there.
    """
    from training.losses.combined import TERMS

    if unknown := [name for name in terms if name not in TERMS]:
        raise ValueError(f"unknown term {unknown[0]!r}; expected one of {', '.join(TERMS)}")
    if not config.data.validation:
        raise ValueError("data.validation is empty: name pairs that tell what a term is worth")
    none: dict[str, Any] = dict.fromkeys(terms, 0.0)
    losses = {"none": none, **{f"{name}_{terms[name]:g}": {**none, name: terms[name]} for name in terms}}
    # All of them now: a wrong setting is to be said before the first run.
    runs = [
        [
            replace(config, loss=replace(config.loss, **loss), seed=seed, output=f"{config.output}/{name}_seed{seed}")
            for name, loss in losses.items()
        ]
        for seed in seeds
    ]
    scores = [[_psnr(run, command) for run in of_seed] for of_seed in runs]
    return {name: list(values) for name, values in zip(("none", *terms), zip(*scores, strict=True), strict=True)}


def _psnr(config: TrainConfig, command: str) -> float:
    """Of a run, which is done as far as it is not done yet."""
    # Lightning takes seconds to import: after the arguments are known to be right.
    from training.run import LAST, SETTINGS, plain, steps_done, train

    output = Path(config.output)
    begun = (output / LAST).is_file()
    if begun and {**yaml.safe_load((output / SETTINGS).read_text()), "output": config.output} != plain(config):
        raise ValueError(f"{output} holds a run with other settings; choose another output, or remove it")
    path = train(config, resume=begun, command=command)
    if steps_done(output) < config.optimizer.steps:
        raise SapnetError("stopped; what is done is kept, and the same command goes on from there")
    return float(json.loads(read_metadata(path)["metrics"])["val/psnr"])


def _term(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        return name, float(weight)
    except ValueError:
        raise ValueError(f"--terms: got {text!r}, expected NAME=WEIGHT, as in {DEFAULT_TERMS[0]}") from None


@one_line_errors("ablate")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = config_parser("ablate", __doc__, EPILOG)
    parser.add_argument("--terms", nargs="+", default=list(DEFAULT_TERMS), metavar="NAME=WEIGHT", help="what to try")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures here, too")
    settings = parser.parse_args(argv)
    terms = dict(_term(text) for text in settings.terms)
    scores = ablate(read_config(parser, settings), terms, settings.seeds, command_line("ablate", argv))
    if settings.json:
        Path(settings.json).write_text(json.dumps(scores, indent=2) + "\n")
    print(table(("term", "val/psnr (dB)", "won (dB)", "of each seed", "worth it"), _rows(scores)))
    return 0


def _rows(scores: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, ...]]:
    for name, values in scores.items():
        won = np.subtract(values, scores["none"])
        worth = "" if name == "none" else ("yes" if won.mean() >= NEEDED_DB else "no")
        yield name, f"{np.mean(values):.2f}", f"{won.mean():+.2f}", " ".join(f"{one:+.2f}" for one in won), worth


if __name__ == "__main__":
    sys.exit(main())
