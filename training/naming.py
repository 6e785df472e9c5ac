"""Short names for data sets and weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Weights or folders as given -> what tables call them: the ends of their paths, as long as it takes to differ."""
    parts = {source: _parts(source) for source in sources}
    for depth in range(1, max(map(len, parts.values()), default=1) + 1):
        names = {source: "/".join(some[-depth:]) for source, some in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _parts(source: str) -> tuple[str, ...]:
    path = Path(source)
    if path.is_dir():
        return path.resolve().parts
    return path.resolve().with_suffix("").parts if path.is_file() else (source,)
