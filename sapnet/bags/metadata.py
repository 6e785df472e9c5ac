"""metadata.yaml of rosbag2, and the QoS profiles that it shares with the storages."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

from rosbags.interfaces import Qos, QosTime
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sapnet.errors import BagError, first_line
from sapnet.files import sync

METADATA = "metadata.yaml"
_ROOT = "rosbag2_bagfile_information"


def read_metadata(folder: Path) -> Any:
    """The content of metadata.yaml. Raises BagError, KeyError or TypeError if it is damaged, OSError."""
    return _load((folder / METADATA).read_bytes())[_ROOT]


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write metadata.yaml and sync it to the disk."""
    (folder / METADATA).write_text(dump({_ROOT: metadata}), encoding="utf-8")
    sync(folder / METADATA)


def dump(values: Any) -> str:
    """Values as YAML, without a line break at the end."""
    yaml, text = YAML(typ="safe"), StringIO()
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump(values, text)
    return text.getvalue().strip()


def parse_qos(profiles: Any) -> tuple[Qos, ...]:
    """QoS profiles as any version of rosbag2 writes them: YAML text or a list. Empty if they are malformed."""
    try:
        listed = _load(profiles) if isinstance(profiles, str) else profiles
        kinds = get_type_hints(Qos)
        return tuple(Qos(*(_setting(kind, values[name]) for name, kind in kinds.items())) for values in listed or ())
    except (BagError, KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return ()


def dump_qos(profiles: Iterable[Qos]) -> str:
    """QoS profiles as YAML text, as versions 4 to 8 of rosbag2 write them."""
    values = [{name: _plain(value) for name, value in profile._asdict().items()} for profile in profiles]
    return dump(values) if values else ""


def _load(text: str | bytes) -> Any:
    """YAML. Raises BagError if it is malformed, or nested too deeply."""
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, RecursionError, ValueError) as err:
        raise BagError(first_line(err)) from err


def _setting(kind: Any, value: Any) -> Any:
    """A setting of a profile: a time, a number, or a policy by its number or, from version 9 on, by its name."""
    if kind is QosTime:
        return QosTime(value["sec"], value["nsec"])
    if not issubclass(kind, Enum):
        return kind(value)
    try:
        return kind(value) if isinstance(value, int) else kind[value.upper()]
    except (KeyError, ValueError):
        return kind["UNKNOWN"]


def _plain(value: Any) -> Any:
    if isinstance(value, QosTime):
        return value._asdict()
    return value.value if isinstance(value, Enum) else value
