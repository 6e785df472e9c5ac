"""Recordings that are damaged are read as far as they go, say so, and are left as they are."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionMode

from bag_builders import Sent, split_bag, text, write_bag
from sapnet.bags import open_recording
from sapnet.errors import BagError

STORAGES = ("mcap", "sqlite3")
STRING = "std_msgs/msg/String"
# A writer in the mode that rosbag2 calls resilient, killed with some of its messages in the log alone.
KILLED_WRITER = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA journal_mode=WAL")
database.execute("PRAGMA wal_autocheckpoint=0")
for number in range(50, 60):
    row = (1, number, database.execute("SELECT data FROM messages WHERE id = 1").fetchone()[0])
    database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    database.commit()
os._exit(0)
"""
# One that is killed with its transaction half written, so that the journal says what to take back.
KILLED_TRANSACTION = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA cache_size=1")
database.execute("UPDATE messages SET timestamp = timestamp + 1000000, data = zeroblob(length(data))")
os._exit(0)
"""


def messages(count: int = 40, first: int = 0) -> list[Sent]:
    """Of sizes that fill pages and chunks at different pace, and that do not shrink."""
    return [
        text("/ab"[0] + "ab"[n % 2], n, f"{n} {np.random.default_rng(n).bytes(300 * (n % 7)).hex()}")
        for n in range(first, first + count)
    ]


@pytest.fixture(autouse=True)
def _leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test did, what stood in the temporary folder for reading is gone."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield
    assert list(scratch.iterdir()) == []


def state(path: Path) -> dict[str, tuple[int, bytes]]:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def damaged(path: Path) -> tuple[list[Sent], list[str]]:
    """What can be read of it, and what is said."""
    before = state(path if path.is_dir() else path.parent)
    with open_recording(path) as bag:
        read = [Sent(topic.name, topic.type, time_ns, data) for topic, time_ns, data in bag.messages()]
        again = [data for _, _, data in bag.messages()]
        notes = list(bag.notes)
    assert again == [sent.data for sent in read]
    assert state(path if path.is_dir() else path.parent) == before
    assert notes
    assert len(set(notes)) == len(notes)
    return read, notes


def damaged_or_none(path: Path) -> tuple[list[Sent], str]:
    """As above; nothing where the error says so."""
    try:
        read, notes = damaged(path)
    except BagError as err:
        said = str(err)
        assert f"cannot be read as a rosbag2 recording: {path.name}" in said
        return [], said
    return read, "; ".join(notes)


def mcap(path: Path, sent: list[Sent], compression: CompressionType, chunking: bool = True) -> Path:
    """Chunks of some messages each, with checksums, as rosbag2 writes them."""
    with path.open("wb") as stream:
        writer = McapWriter(stream, 4000, compression, IndexType.ALL, use_chunking=chunking)
        writer.start("ros2", "test")
        schema = writer.register_schema(STRING, "ros2msg", b"string data\n")
        channels = {topic: writer.register_channel(topic, "cdr", schema) for topic in ("/a", "/b")}
        for message in sent:
            writer.add_message(channels[message.topic], message.time_ns, message.data, message.time_ns)
        writer.finish()
    return path


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("chunking", [True, False])
def test_mcap_that_is_cut_off_anywhere(tmp_path: Path, compression: CompressionType, chunking: bool) -> None:
    whole = mcap(tmp_path / "whole.mcap", messages(), compression, chunking).read_bytes()
    cut = tmp_path / "cut.mcap"
    lengths = []
    for end in sorted(np.random.default_rng(1).integers(0, len(whole), 40).tolist()):
        cut.write_bytes(whole[:end])
        read, said = damaged_or_none(cut)
        assert "cut.mcap has no end, so its recording was cut off: read as far as it goes" in said or end < 8
        assert read == messages()[: len(read)]
        lengths.append(len(read))
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 8
    assert lengths[-1] > 30


def test_database_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    whole = (write_bag(tmp_path / "bag", messages(), "sqlite3") / "bag.db3").read_bytes()
    cut = tmp_path / "cut.db3"
    lengths = []
    for end in sorted(np.random.default_rng(2).integers(0, len(whole), 40).tolist()):
        cut.write_bytes(whole[:end])
        read, _ = damaged_or_none(cut)
        assert read == messages()[: len(read)]
        lengths.append(len(read))
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 5
    assert lengths[-1] > 20


@pytest.mark.parametrize("compression", list(CompressionType))
def test_a_flipped_byte_costs_the_chunk_it_is_in(tmp_path: Path, compression: CompressionType) -> None:
    path = mcap(tmp_path / "a.mcap", messages(), compression)
    whole = bytearray(path.read_bytes())
    for place in np.random.default_rng(3).integers(200, len(whole) * 3 // 4, 12).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        with open_recording(path) as bag:
            read = [Sent(topic.name, topic.type, time_ns, data) for topic, time_ns, data in bag.messages()]
            notes = bag.notes
        # A byte outside of the chunks, or of a time in their heads, may change nothing.
        assert read == messages() or notes
        assert len(read) >= 20
        times = [sent.time_ns for sent in read]
        assert [sent for sent in messages() if sent.time_ns in times] == read


def test_a_damaged_index_is_done_without(tmp_path: Path) -> None:
    path = mcap(tmp_path / "a.mcap", messages(), CompressionType.ZSTD)
    whole = bytearray(path.read_bytes())
    whole[-120] ^= 0xFF
    path.write_bytes(whole)
    read, notes = damaged(path)
    assert read == messages()
    assert notes == ["a.mcap has a damaged index (its checksum is wrong): read through instead"]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("metadata", [None, "garbage", "\x00\xff", "[[", "rosbag2_bagfile_information: {version: 5}"])
def test_metadata_that_is_missing_or_garbage(tmp_path: Path, storage: str, metadata: str | None) -> None:
    bag = split_bag(tmp_path / "bag", [messages(5), messages(5, 5), messages(5, 10)], storage)
    (bag / "metadata.yaml").unlink()
    if metadata is not None:
        (bag / "metadata.yaml").write_text(metadata, encoding="latin-1")
    read, notes = damaged(bag)
    assert read == messages(15)
    assert len(notes) == 1
    assert "metadata.yaml" in notes[0]


@pytest.mark.parametrize("bad", ["name", "offered_qos_profiles"])
def test_metadata_with_a_bad_topic(tmp_path: Path, bad: str) -> None:
    bag = write_bag(tmp_path / "bag", messages(5))
    content = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(content.replace(f"{bad}:", f"{bad}: [{{x: y}}]\n        other:"))
    with open_recording(bag) as source:
        assert [recorded.time_ns for recorded in source.messages()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0", b"\x89MCAP0\r\n", b"hello" * 100])
def test_one_file_of_several_is_missing_or_is_none(tmp_path: Path, storage: str, content: bytes | None) -> None:
    bag = split_bag(tmp_path / "bag", [messages(5), messages(5, 5), messages(5, 10)], storage)
    (file,) = bag.glob("bag_1.*")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    read, notes = damaged(bag)
    assert read == messages(5) + messages(5, 10)
    assert all(file.name in said for said in notes)


@pytest.mark.parametrize("storage", STORAGES)
def test_files_that_are_cut_off_within_their_compression(tmp_path: Path, storage: str) -> None:
    bag = split_bag(tmp_path / "bag", [messages(20), messages(20, 20)], storage, CompressionMode.FILE)
    (file,) = bag.glob("bag_1.*")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    read, notes = damaged(bag)
    assert read[:20] == messages(20)
    assert read == messages()[: len(read)]
    assert notes[0].startswith(f"{file.name} is damaged (")


def test_messages_that_cannot_be_unpacked_are_left_out(tmp_path: Path) -> None:
    bag = split_bag(tmp_path / "bag", [messages(6)], "sqlite3", CompressionMode.MESSAGE)
    whole = (bag / "bag_0.db3").read_bytes()
    place = whole.rindex(b"\x28\xb5\x2f\xfd") + 4
    (bag / "bag_0.db3").write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
    read, notes = damaged(bag)
    assert len(read) == 5
    assert "holds messages that cannot be unpacked" in notes[0]


def test_a_database_with_a_log_beside_it(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", messages(20), "sqlite3")
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(bag / "bag.db3")], check=True)
    assert (bag / "bag.db3-wal").stat().st_size > 0
    read, notes = damaged(bag)
    assert read[:20] == messages(20)
    assert [(sent.time_ns, sent.data) for sent in read[20:]] == [(n, messages(1)[0].data) for n in range(50, 60)]
    assert notes == ["bag.db3 was not closed: its log beside it is read too"]


def test_a_database_with_a_transaction_to_take_back(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", messages(), "sqlite3")
    subprocess.run([sys.executable, "-c", KILLED_TRANSACTION, str(bag / "bag.db3")], check=True)
    assert (bag / "bag.db3-journal").stat().st_size > 0
    assert damaged(bag)[0] == messages()


@pytest.mark.parametrize("place", range(3))
def test_a_database_with_overwritten_pages(tmp_path: Path, place: int) -> None:
    bag = write_bag(tmp_path / "bag", messages(), "sqlite3")
    content = bytearray((bag / "bag.db3").read_bytes())
    first = len(content) * (place + 1) // 4 // 4096 * 4096
    content[first : first + 3 * 4096] = b"\xa5" * 3 * 4096
    (bag / "bag.db3").write_bytes(content)
    with open_recording(bag) as source:
        read = [(topic.name, time_ns) for topic, time_ns, _ in source.messages()]
    assert read == [key for key in ((sent.topic, sent.time_ns) for sent in messages()) if key in read]


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.mcap.zstd", "a.db3.zstd", "a.bag"])
@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"garbage" * 1000, b"SQLite format 3\0" + b"\x10\0" * 300])
def test_what_is_no_recording(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(content)
    with (
        pytest.raises(BagError, match=rf"{name} cannot be read as a (rosbag2 recording|ROS 1 bag): "),
        open_recording(path),
    ):
        pass
    if not name.endswith(".bag"):
        with pytest.raises(BagError, match="in cannot be read as a rosbag2 recording"), open_recording(path.parent):
            pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("storage", STORAGES)
def test_files_that_may_not_be_read(tmp_path: Path, storage: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    bag = split_bag(tmp_path / "bag", [messages(5), messages(5, 5)], storage)
    (file,) = bag.glob("bag_1.*")
    file.chmod(0)
    with (
        pytest.raises(BagError, match=rf"cannot be read \({file.name}: Permission denied\); check its rights"),
        open_recording(bag),
    ):
        pass
    bag.chmod(0)
    try:
        with pytest.raises(BagError, match=r"cannot be read \(Permission denied\)"), open_recording(bag):
            pass
    finally:
        bag.chmod(0o755)


def test_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_bag(tmp_path / "bag", messages(5))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(BagError, match="check its rights, and TMPDIR"), open_recording(bag):
        pass


@pytest.mark.parametrize("storage", STORAGES)
def test_no_room_to_unpack_is_not_taken_for_damage(tmp_path: Path, storage: str) -> None:
    """A run that is gone on with would find other messages than the one before."""
    bag = split_bag(tmp_path / "bag", [messages(20), messages(20, 20)], storage, CompressionMode.FILE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(BagError, match=r"File too large.*set TMPDIR to a larger disk"), open_recording(bag):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_goes_wrong_while_a_recording_is_open_is_not_the_recordings(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", messages(5))
    with pytest.raises(OSError, match="ours"), open_recording(bag):
        raise OSError("ours")
