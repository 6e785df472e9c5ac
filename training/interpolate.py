"""Write weights that lie between those a fine-tuning began with and those it ended with.

(1 - SHARE) of the first and SHARE of the second: WiSE-FT (Wortsman et al., CVPR 2022). Training on one kind of rain
makes a network forget others; in between, it often does better on both than at either end. Choose SHARE by
`python -m training.evaluate` on pairs of all kinds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sapnet.model.weights import load_weights, read_metadata, save_weights
from training.commands import command_line, make_parser, one_line_errors


@one_line_errors("interpolate")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = make_parser("interpolate", __doc__)
    parser.add_argument("first", type=Path, metavar="FIRST", help="weights that a fine-tuning began with")
    parser.add_argument("second", type=Path, metavar="SECOND", help="weights that it ended with")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1 (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .safetensors file")
    args = parser.parse_args(argv)
    if not 0 <= args.share <= 1:
        raise ValueError(f"got share {args.share!r}, expected 0 to 1")
    begin, end = load_weights(args.first), load_weights(args.second)
    if begin.config != end.config:
        raise ValueError(
            f"{args.first} and {args.second} are weights of different networks: {begin.config} and {end.config}"
        )
    second = end.state_dict()
    end.load_state_dict({name: value.lerp(second[name], args.share) for name, value in begin.state_dict().items()})
    kept = {name: text for name, text in read_metadata(args.second).items() if name not in ("model_config", "metrics")}
    mixed = {"first": args.first.name, "second": args.second.name, "share": args.share}
    mixed["command"] = command_line("interpolate", argv)
    save_weights(end, args.output, {**kept, "interpolated": json.dumps(mixed)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
