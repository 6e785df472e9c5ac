"""The metadata.yaml of a recording that was written in several files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

METADATA = "metadata.yaml"
_ROOT = "rosbag2_bagfile_information"


def read_metadata(folder: Path) -> dict[str, Any]:
    """What metadata.yaml says. Raises OSError, YAMLError, KeyError, TypeError."""
    metadata: dict[str, Any] = YAML(typ="safe").load(folder / METADATA)[_ROOT]
    return metadata


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write metadata.yaml, to the disk."""
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    with (folder / METADATA).open("wb") as file:
        yaml.dump({_ROOT: metadata}, file)
        file.flush()
        os.fsync(file.fileno())


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One metadata of recordings that follow one another, whose files are put into one folder."""
    spans = [_span(part) for part in parts if part["message_count"]]
    start = min((start for start, _ in spans), default=0)
    topics: dict[tuple[str, str], dict[str, Any]] = {}
    for part in parts:
        for entry in part["topics_with_message_count"]:
            key = (entry["topic_metadata"]["name"], entry["topic_metadata"]["type"])
            known = topics.setdefault(key, {**entry, "message_count": 0})
            known["message_count"] += entry["message_count"]
    return {
        **parts[0],
        "relative_file_paths": [name for part in parts for name in part["relative_file_paths"]],
        "files": [file for part in parts for file in part["files"]],
        "starting_time": {"nanoseconds_since_epoch": start},
        "duration": {"nanoseconds": max((end for _, end in spans), default=0) - start},
        "message_count": sum(part["message_count"] for part in parts),
        "topics_with_message_count": list(topics.values()),
    }


def _span(part: dict[str, Any]) -> tuple[int, int]:
    start = part["starting_time"]["nanoseconds_since_epoch"]
    return start, start + part["duration"]["nanoseconds"]
