"""rosbag2 recordings: the files that metadata.yaml names, or what is there without it, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from ruamel.yaml import YAML

from sapnet.bags.mcap import McapFile
from sapnet.bags.mcap_pieces import require_plausible
from sapnet.bags.metadata import METADATA
from sapnet.bags.packed_file import SUFFIXES, PackedFile
from sapnet.bags.recording import Message, Recording, Topic, note
from sapnet.bags.sqlite3 import Sqlite3File
from sapnet.bags.types import parsed_qos, zstd
from sapnet.errors import BagError, first_line

STORAGES = {".mcap": "mcap", ".db3": "sqlite3"}
# How a message that was compressed begins; CDR begins with 00.
_ZSTD = b"\x28\xb5\x2f\xfd"

File = McapFile | Sqlite3File | PackedFile
Key = tuple[str, str]


@dataclass
class _Recording:
    """What is known before the files are opened: of metadata.yaml, as far as there is one."""

    files: list[Path]
    topics: list[Topic] = field(default_factory=list)
    compression: str = "none"
    custom: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def say(self, what: str) -> None:
        note(self.notes, what)


@contextmanager
def open_rosbag2(path: Path, scratch: Path) -> Iterator[Recording]:
    """Open a rosbag2 folder or one of its files. scratch: an empty folder. Raises BagError."""
    recording = _find(path)
    files = list(_opened(recording, scratch))
    if not files:
        raise BagError(f"{path} cannot be read as a rosbag2 recording: {'; '.join(recording.notes)}")
    topics = _merged(files, recording.topics)
    spans = [file.span_ns for _, file in files if file.span_ns is not None]
    span = (min(first for first, _ in spans), max(last for _, last in spans) + 1) if spans else (0, 0)

    def read(wanted: Collection[Topic], start_ns: int | None, stop_ns: int | None) -> Iterator[Message]:
        asked = {(topic.name, topic.type) for topic in wanted}
        keys = {key: topic for key, topic in topics.items() if (topic.name, topic.type) in asked}
        for name, file in files:
            try:
                yield from _messages(file, keys, start_ns, stop_ns, recording.say)
            except (OSError, MemoryError):
                raise
            # What is raised depends on the byte that is wrong.
            except Exception as err:
                recording.say(f"{name} is damaged ({first_line(err)}): read as far as it goes")

    yield Recording(
        path,
        STORAGES[_suffix(recording.files[0])],
        _compression(files, recording),
        tuple(topics.values()),
        span,
        recording.notes,
        read,
        recording.custom,
    )


def _find(path: Path) -> _Recording:
    if path.is_file():
        if _suffix(path) not in STORAGES:
            raise BagError(f"{path} is no recording; expected a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag")
        return _Recording([path])
    recording = _Recording([file for file in sorted(path.iterdir(), key=_order) if _suffix(file) in STORAGES])
    if (path / METADATA).is_file():
        try:
            _read_metadata(path, recording)
        except (OSError, MemoryError):
            raise
        # It may be anything that somebody wrote into the file.
        except Exception as err:
            recording.say(f"{METADATA} cannot be read ({first_line(err)}): its files are read without it")
    elif recording.files:
        recording.say(f"no {METADATA}, so the recording was not finished: its files are read without it")
    if not recording.files:
        why = "".join(f"; {said}" for said in recording.notes)
        raise BagError(f"{path} holds no recording; expected {METADATA} and .mcap or .db3 files in it{why}")
    return recording


def _read_metadata(path: Path, recording: _Recording) -> None:
    metadata: dict[str, Any] = YAML(typ="safe").load(path / METADATA)["rosbag2_bagfile_information"]
    named = [path / PurePath(name).name for name in metadata["relative_file_paths"]]
    named = [file for file in dict.fromkeys(named) if _suffix(file) in STORAGES]
    topics = [_described(entry["topic_metadata"]) for entry in metadata["topics_with_message_count"]]
    custom = {str(key): str(value) for key, value in (metadata.get("custom_data") or {}).items()}
    mode = str(metadata.get("compression_mode") or "none").lower()
    missing = [file.name for file in named if not file.is_file()]
    if missing:
        recording.say(f"{', '.join(missing)} of the recording is missing")
    recording.files = [file for file in named if file.is_file()]
    recording.topics = topics
    recording.custom = custom
    recording.compression = mode if mode in ("message", "file") else "none"


def _described(entry: dict[str, Any]) -> Topic:
    """What metadata.yaml says of a topic."""
    qos = parsed_qos(entry.get("offered_qos_profiles"))
    definition = MessageDefinition(MessageDefinitionFormat.NONE, "")
    digest, serialization = str(entry.get("type_description_hash") or ""), str(entry["serialization_format"])
    return Topic(str(entry["name"]), str(entry["type"]), qos, definition, digest, serialization, 0)


def _suffix(path: Path) -> str:
    """That of the storage: a compressed file has one more."""
    return path.with_suffix("").suffix if path.suffix in SUFFIXES else path.suffix


def _order(path: Path) -> list[tuple[bool, int, str]]:
    from sapnet.files import natural_key

    return natural_key(path.name)


def _opened(recording: _Recording, scratch: Path) -> Iterator[tuple[str, File]]:
    """Names of files, and what was opened of each; those that are damaged all over are left out.

    What somebody can mend (rights, room for a copy) is raised: a run that is gone on with must read the same.
    """
    for number, file in enumerate(recording.files):
        try:
            if file.suffix in SUFFIXES:
                yield file.name, PackedFile(file, scratch / "unpacked", recording.say)
            elif file.suffix == ".mcap":
                yield file.name, McapFile(file, recording.say)
            else:
                yield file.name, Sqlite3File(file, scratch / f"merged_{number}", recording.say)
        except OSError as err:
            raise OSError(err.errno, f"{file.name}: {err.strerror or err}") from err
        except MemoryError:
            raise
        # What is raised depends on the byte that is wrong.
        except Exception as err:
            recording.say(f"{file.name} cannot be read ({first_line(err)}): left out")


def _merged(files: list[tuple[str, File]], described: list[Topic]) -> dict[Key, Topic]:
    """The topics of all files, by the names and types they have in those, with what metadata.yaml says beyond."""
    topics: dict[Key, Topic] = {}
    for _, file in files:
        for key, topic in _by_key(file.topics).items():
            topics[key] = _both(topics[key], topic) if key in topics else topic
    for topic in described:
        key = topic.name, topic.type
        untyped = topic.name, ""
        if key not in topics and untyped in topics:
            topics[untyped] = _both(topic, topics[untyped])
        else:
            # rosbag2 goes by metadata.yaml too, and people mend profiles there.
            topics[key] = _both(topic, topics[key]) if key in topics else topic
    return topics


def _by_key(topics: Iterable[Topic]) -> dict[Key, Topic]:
    """Of a file, in which a topic may have several channels, with publishers of their own."""
    merged: dict[Key, Topic] = {}
    for topic in topics:
        key = topic.name, topic.type
        if key in merged:
            known = merged[key]
            profiles = (*known.qos, *(profile for profile in topic.qos if profile not in known.qos))
            topic = replace(_both(known, topic), qos=profiles)
        merged[key] = topic
    return merged


def _both(topic: Topic, other: Topic) -> Topic:
    """A topic, with what another file says of it beyond."""
    return replace(
        topic,
        qos=topic.qos or other.qos,
        definition=topic.definition if topic.definition.data else other.definition,
        digest=topic.digest or other.digest,
        count=topic.count + other.count,
    )


def _compression(files: list[tuple[str, File]], recording: _Recording) -> str:
    if recording.compression != "none":
        return recording.compression
    if all(name.endswith(SUFFIXES) for name, _ in files):
        return "file"
    if any(_holds_packed(file) for _, file in files):
        return "message"
    return next((file.compression for _, file in files if file.compression != "none"), "none")


def _holds_packed(file: File) -> bool:
    """Whether its messages were compressed one by one, going by the first."""
    try:
        for recorded in file.messages(_keys(file), None, None):
            return recorded.data.startswith(_ZSTD)
    except (OSError, MemoryError):
        raise
    except Exception:  # damage is told of where it is read in earnest
        return False
    return False


def _keys(file: File) -> set[Key]:
    return {(topic.name, topic.type) for topic in file.topics}


def _messages(
    file: File, wanted: dict[Key, Topic], start_ns: int | None, stop_ns: int | None, say: Callable[[str], None]
) -> Iterator[Message]:
    if wanted.keys().isdisjoint(_keys(file)):
        return
    for topic, time_ns, data in file.messages(wanted, start_ns, stop_ns):
        if data.startswith(_ZSTD):
            try:
                require_plausible(zstd.get_frame_info(data).decompressed_size)
                data = zstd.decompress(data)
            except (zstd.ZstdError, ValueError) as err:
                say(f"{topic.name} holds messages that cannot be unpacked ({first_line(err)}): left out")
                continue
        yield Message(wanted[topic.name, topic.type], time_ns, data)
