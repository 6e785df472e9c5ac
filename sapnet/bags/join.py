"""Recordings that follow one another, put together as one of several files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from sapnet.bags.metadata import merged, read_metadata, write_metadata
from sapnet.errors import BagError
from sapnet.files import sync


def join_bags(parts: Sequence[Path], output: Path) -> None:
    """Make rosbag2 folders, in their order, one recording; their files are linked or copied, and not changed.

    Its files are named ``<output>_0`` and so on. It appears whole or not at all. Raises BagError.
    """
    unfinished = output.with_name(f".{output.name}.joining")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        described: list[dict[str, Any]] = []
        numbers = count()
        for part in parts:
            metadata = read_metadata(part)
            renamed = {
                name: f"{output.name}_{next(numbers)}{''.join(_suffixes(name))}"
                for name in metadata["relative_file_paths"]
            }
            for old, new in renamed.items():
                _link(part / old, unfinished / new)
            metadata["relative_file_paths"] = list(renamed.values())
            metadata["files"] = [{**file, "path": renamed[file["path"]]} for file in metadata["files"]]
            described.append(metadata)
        write_metadata(unfinished, merged(described))
        sync(unfinished)
        os.replace(unfinished, output)
    except OSError as err:
        raise BagError(f"{output} cannot be written ({err.strerror or err})") from err
    except (YAMLError, KeyError, TypeError, IndexError) as err:
        raise BagError(f"{output} cannot be joined, a part is no whole recording: {type(err).__name__} {err}") from err
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _suffixes(name: str) -> list[str]:
    """Those of the storage and, where the file is compressed, of the compression."""
    path = Path(name)
    return [path.with_suffix("").suffix, path.suffix] if path.suffix == ".zstd" else [path.suffix]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
