"""One process of a training that has several, without the launcher: torchrun's variables, then the command."""

from __future__ import annotations

import os

from training.train import main


def run(rank: int, port: int, arguments: list[str]) -> None:
    """Train as the process of this rank, of two on this host."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert main(arguments) == 0
