"""Weights between two: what a fine-tuning won, without all that it forgot (Wortsman et al., CVPR 2022, WiSE-FT)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sapnet.model.weights import load_weights, read_metadata, save_weights
from training.commands import command_line, make_parser, one_line_errors

_DESCRIPTION = """\
Write weights that lie between those a fine-tuning began with and those it ended with: (1 - SHARE) of the first and
SHARE of the second. Training on one kind of rain makes a network forget others; in between, it often does better on
both than at either end. Choose SHARE by `python -m training.evaluate` on pairs of all kinds.
"""


def interpolate(first: str | Path, second: str | Path, share: float, output: Path, command: str = "") -> None:
    """Write ``(1 - share) * first + share * second`` as safetensors, with the provenance of ``second`` and of this.

    share: 0 to 1. Raises SapnetError; ValueError for another share, or for weights of different networks.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"got share {share!r}, expected 0 to 1")
    begin, end = load_weights(first), load_weights(second)
    if begin.config != end.config:
        raise ValueError(f"{first} and {second} are weights of different networks: {begin.config} and {end.config}")
    states = begin.state_dict(), end.state_dict()
    end.load_state_dict({name: (1 - share) * value + share * states[1][name] for name, value in states[0].items()})
    provenance = {name: text for name, text in read_metadata(second).items() if name not in ("model_config", "metrics")}
    mixed = {"first": Path(first).name, "second": Path(second).name, "share": share, "command": command}
    save_weights(end, output, {**provenance, "interpolated": json.dumps(mixed)})


@one_line_errors("interpolate")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = make_parser("interpolate", _DESCRIPTION)
    parser.add_argument("first", metavar="FIRST", help="weights that a fine-tuning began with")
    parser.add_argument("second", metavar="SECOND", help="weights that it ended with")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1 (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .safetensors file")
    args = parser.parse_args(argv)
    interpolate(args.first, args.second, args.share, args.output, command_line("interpolate", argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
