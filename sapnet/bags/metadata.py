"""metadata.yaml of rosbag2, and the QoS profiles that it shares with the storages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sapnet.errors import BagError, first_line

METADATA = "metadata.yaml"
# Recordings with ten thousand files stay below a tenth of this.
MAX_BYTES = 2**26
_ROOT = "rosbag2_bagfile_information"

Named = TypeVar("Named", bound=Enum)


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of metadata.yaml. Raises BagError if it is damaged, OSError."""
    path = folder / METADATA
    if path.stat().st_size > MAX_BYTES:
        raise BagError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        metadata = _load(path.read_bytes())[_ROOT]
    except (BagError, KeyError, TypeError) as err:
        raise BagError(f"{path} cannot be read ({first_line(err)})") from err
    if not isinstance(metadata, dict):
        raise BagError(f"{path} cannot be read ({_ROOT} is no mapping)")
    return metadata


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write metadata.yaml and sync it to the disk."""
    with (folder / METADATA).open("w", encoding="utf-8") as file:
        file.write(dump({_ROOT: metadata}))
        file.flush()
        os.fsync(file.fileno())


def dump(values: Any) -> str:
    """Values as YAML, without a line break at the end."""
    yaml, text = YAML(typ="safe"), StringIO()
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump(values, text)
    return text.getvalue().strip()


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The metadata of consecutive recordings whose files are moved into one folder."""
    spans = [_span(part) for part in parts if part["message_count"]]
    start = min((start for start, _ in spans), default=0)
    topics: dict[str, dict[str, Any]] = {}
    for part in parts:
        for entry in part["topics_with_message_count"]:
            known = topics.setdefault(repr(entry["topic_metadata"]), {**entry, "message_count": 0})
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


def parse_qos(profiles: Any) -> tuple[Qos, ...]:
    """QoS profiles as any version of rosbag2 writes them: YAML text or a list. Empty if they are malformed."""
    try:
        listed = _load(profiles) if isinstance(profiles, str) else profiles
        return tuple(_profile(values) for values in listed or ())
    except (BagError, KeyError, TypeError, AttributeError):
        return ()


def dump_qos(profiles: Iterable[Qos]) -> str:
    """QoS profiles as YAML text, as versions 4 to 8 of rosbag2 write them."""
    values = [
        {
            "history": qos.history.value,
            "depth": qos.depth,
            "reliability": qos.reliability.value,
            "durability": qos.durability.value,
            "deadline": {"sec": qos.deadline.sec, "nsec": qos.deadline.nsec},
            "lifespan": {"sec": qos.lifespan.sec, "nsec": qos.lifespan.nsec},
            "liveliness": qos.liveliness.value,
            "liveliness_lease_duration": {
                "sec": qos.liveliness_lease_duration.sec,
                "nsec": qos.liveliness_lease_duration.nsec,
            },
            "avoid_ros_namespace_conventions": qos.avoid_ros_namespace_conventions,
        }
        for qos in profiles
    ]
    return dump(values) if values else ""


def _load(text: str | bytes) -> Any:
    """YAML. Raises BagError if it is malformed, or nested too deeply."""
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, RecursionError, ValueError) as err:
        raise BagError(first_line(err)) from err


def _profile(values: dict[str, Any]) -> Qos:
    return Qos(
        _named(QosHistory, values["history"]),
        int(values["depth"]),
        _named(QosReliability, values["reliability"]),
        _named(QosDurability, values["durability"]),
        _time(values["deadline"]),
        _time(values["lifespan"]),
        _named(QosLiveliness, values["liveliness"]),
        _time(values["liveliness_lease_duration"]),
        bool(values["avoid_ros_namespace_conventions"]),
    )


def _named(kind: type[Named], value: int | str) -> Named:
    """A policy by its number, or by its name from version 9 on."""
    try:
        return kind(value) if isinstance(value, int) else kind[value.upper()]
    except (KeyError, ValueError):
        return kind["UNKNOWN"]


def _time(values: dict[str, int]) -> QosTime:
    return QosTime(values["sec"], values["nsec"])


def _span(part: dict[str, Any]) -> tuple[int, int]:
    start = part["starting_time"]["nanoseconds_since_epoch"]
    return start, start + part["duration"]["nanoseconds"]
