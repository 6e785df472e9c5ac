"""Damaged recordings are read as far as possible, say what is missing, and are left as they are.

Those that were made to do harm end in an error or in a note, never in a crash, and read nothing else.
"""

from __future__ import annotations

import resource
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType
from ruamel.yaml import YAML

from bag_builders import START_NS, Sent, image, mcap_file, profile, recorded, smooth_frames, split_bag, text, write_bag
from sapnet.bags import open_recording
from sapnet.bags.derain import derain_bag
from sapnet.bags.recording import InputError
from sapnet.derainer import Derainer
from sapnet.errors import BagError, SapnetError

HUGE = 2**62


def messages(count: int = 40, first: int = 0) -> list[Sent]:
    """Messages of sizes that fill pages and chunks at different pace, and that do not compress."""
    return [
        text(f"/{'ab'[n % 2]}", n, f"{n} {np.random.default_rng(n).bytes(300 * (n % 7)).hex()}")
        for n in range(first, first + count)
    ]


@pytest.fixture(autouse=True)
def _leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The temporary folder is empty after each test."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield
    assert list(scratch.iterdir()) == []


def state(path: Path) -> dict[str, tuple[int, bytes]]:
    folder = path if path.is_dir() else path.parent
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir() if file.is_file()}


def damaged(path: Path) -> tuple[list[Sent], list[str], list[str]]:
    """The messages that can be read, the notes, and those of them that mean loss."""
    before = state(path)
    with open_recording(path) as bag:
        read, again = recorded(bag), recorded(bag)
        notes, missing = list(bag.notes), list(bag.missing)
    assert again == read
    assert state(path) == before
    assert len(set(notes)) == len(notes)
    assert set(missing) <= set(notes)
    return read, notes, missing


@pytest.mark.parametrize(
    ("compression", "chunking"), [*((kind, True) for kind in CompressionType), (CompressionType.NONE, False)]
)
def test_mcap_that_is_cut_off_anywhere(tmp_path: Path, compression: CompressionType, chunking: bool) -> None:
    whole = mcap_file(
        tmp_path / "whole.mcap", messages(), 4000, compression, IndexType.ALL, True, True, chunking
    ).read_bytes()
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / "cut.mcap"
    lengths = []
    for end in sorted(np.random.default_rng(1).integers(0, len(whole), 30).tolist()):
        cut.write_bytes(whole[:end])
        try:
            read, _, missing = damaged(cut)
        except BagError:  # within the magic, the header or the first chunk
            lengths.append(0)
            continue
        assert read == messages()[: len(read)]
        assert missing == ["cut.mcap has no end, so its recording was cut off: read up to there"]
        lengths.append(len(read))
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 8
    assert lengths[-1] > 30


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("indexed", [True, False])
def test_a_flipped_byte_costs_the_chunk_that_it_is_in(
    tmp_path: Path, compression: CompressionType, indexed: bool
) -> None:
    path = mcap_file(tmp_path / "a.mcap", messages(), 4000, compression)
    whole = bytearray(path.read_bytes())
    if not indexed:
        whole[-28:-20] = bytes(8)  # the footer's start of the summary
    for place in np.random.default_rng(3).integers(200, len(whole) * 3 // 4, 12).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        read, _, missing = damaged(path)
        # A byte between chunks, or in a chunk's index, may change nothing.
        assert read == messages() or missing
        assert len(read) >= 20 or not indexed
        times = [sent.time_ns for sent in read]
        assert [sent for sent in messages() if sent.time_ns in times] == read


def test_a_database_that_is_cut_off_names_what_recovers_it(tmp_path: Path) -> None:
    bag = split_bag(tmp_path / "bag", [messages(20), messages(20, 20)], "sqlite3")
    file = bag / "bag_1.db3"
    file.write_bytes(file.read_bytes()[:-5000])
    with (
        pytest.raises(BagError, match=r"it is damaged or cut off \(.*\); `sqlite3 bag_1\.db3 \.recover"),
        open_recording(file),
    ):
        pass
    read, _, (missing,) = damaged(bag)
    assert read == messages(20)
    assert "`sqlite3 bag_1.db3 .recover" in missing


def test_messages_of_a_topic_that_is_gone_count_for_nothing(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", messages(20), "sqlite3")
    with closing(sqlite3.connect(bag / "bag.db3")) as database, database:
        database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (99, 5, x'00')")
    (bag / "metadata.yaml").unlink()
    with open_recording(bag) as recording:
        assert (recording.start_ns, len(list(recording.messages()))) == (messages(1)[0].time_ns, 20)


def test_a_database_that_is_written_meanwhile_is_left_alone(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", messages(20), "sqlite3")
    with open_recording(bag) as recording, closing(sqlite3.connect(bag / "bag.db3")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA wal_autocheckpoint=0")
        with database:
            database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (1, 5, x'00')")
        there = {file.name: file.read_bytes() for file in bag.iterdir()}
        assert "bag.db3-wal" in there
        assert len(list(recording.messages())) == 20
        assert {file.name: file.read_bytes() for file in bag.iterdir()} == there


def killed(bag: Path, *statements: str) -> Path:
    """What a writer leaves of a recording that is killed after some statements: a copy, made before it closes."""
    (file,) = bag.glob("*.db3")
    with closing(sqlite3.connect(file)) as database:
        for statement in statements:
            database.execute(statement)
        return shutil.copytree(bag, bag.with_name(f"{bag.name}_killed"))


def test_databases_that_were_not_closed(tmp_path: Path) -> None:
    # In the mode that rosbag2 calls resilient, with some of the messages in the log only.
    resilient = "PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=0"
    more = "INSERT INTO messages (topic_id, timestamp, data) SELECT 1, timestamp + 50, data FROM messages LIMIT 10"
    bag = killed(write_bag(tmp_path / "bag", messages(20), "sqlite3"), *resilient, more, "COMMIT")
    assert (bag / "bag.db3-wal").stat().st_size > 0
    read, notes, missing = damaged(bag)
    assert read[:20] == messages(20)
    assert [(sent.time_ns, sent.data) for sent in read[20:]] == [(m.time_ns + 50, m.data) for m in messages(10)]
    assert (notes, missing) == (["bag.db3 was not closed: the log beside it is read too"], [])
    # Within a transaction, which the journal says how to roll back.
    change = "UPDATE messages SET timestamp = timestamp + 1000000, data = zeroblob(length(data))"
    bag = killed(write_bag(tmp_path / "other", messages(), "sqlite3"), "PRAGMA cache_size=1", change)
    assert (bag / "other.db3-journal").stat().st_size > 0
    assert damaged(bag)[0] == messages()


@pytest.mark.parametrize(
    "metadata",
    [None, "[" * 1_000, "\x00\xff", "rosbag2_bagfile_information: {version: 5}"],
    ids=["none", "deep", "bytes", "empty"],
)
def test_metadata_that_is_missing_or_garbage_costs_nothing(tmp_path: Path, metadata: str | None) -> None:
    bag = split_bag(tmp_path / "bag", [messages(5), messages(5, 5), messages(5, 10)])
    (bag / "metadata.yaml").unlink()
    if metadata is not None:
        (bag / "metadata.yaml").write_text(metadata, encoding="latin-1")
    read, notes, missing = damaged(bag)
    assert read == messages(15)
    assert (len(notes), missing) == (1, [])
    assert "metadata.yaml" in notes[0]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_files_that_are_missing_or_no_recordings(tmp_path: Path, storage: str) -> None:
    contents = [b"", b"SQLite format 3\0", b"\x89MCAP0\r\n", b"hello" * 100]
    bag = split_bag(tmp_path / "bag", [messages(5, 5 * n) for n in range(7)], storage)
    bad = sorted(bag.glob("bag_[1-5].*"))
    for file, content in zip(bad[1:], contents, strict=True):
        file.write_bytes(content)
    bad[0].unlink()
    read, notes, missing = damaged(bag)
    assert read == messages(5) + messages(5, 30)
    assert notes == missing
    assert all(file.name in said for file, said in zip(bad, notes, strict=True))


def test_files_and_messages_that_cannot_be_unpacked(tmp_path: Path) -> None:
    bag = split_bag(tmp_path / "bag", [messages(20), messages(20, 20)], "mcap", "file")
    (file,) = bag.glob("bag_1.*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    read, _, missing = damaged(bag)
    assert read[:20] == messages(20)
    assert read == messages()[: len(read)]
    assert missing[0].startswith(f"{file.name} is damaged (")
    bag = split_bag(tmp_path / "other", [messages(6)], "sqlite3", "message")
    whole = (bag / "other_0.db3").read_bytes()
    place = whole.rindex(b"\x28\xb5\x2f\xfd") + 4
    (bag / "other_0.db3").write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
    read, _, missing = damaged(bag)
    assert len(read) == 5
    assert "holds messages that cannot be unpacked" in missing[0]


def test_no_room_to_unpack_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that resumes would find other messages than before."""
    bag = split_bag(tmp_path / "bag", [messages(20), messages(20, 20)], "mcap", "file")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(InputError, match=r"File too large.*its rights, and room in TMPDIR"), open_recording(bag):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="check its storage, its rights, and room in TMPDIR"), open_recording(bag):
        pass
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


@pytest.mark.parametrize("named", ["../secret/secret.mcap", "{}/secret/secret.mcap", "bag/../../secret/secret.mcap"])
def test_metadata_names_no_file_outside_of_its_folder(tmp_path: Path, named: str) -> None:
    write_bag(tmp_path / "secret", [text("/secret", 7, "x")])
    bag = write_bag(tmp_path / "bag", [text("/a", 1, "x")])
    content = YAML(typ="safe").load(bag / "metadata.yaml")
    content["rosbag2_bagfile_information"]["relative_file_paths"] += [named.format(tmp_path)]
    YAML(typ="safe").dump(content, bag / "metadata.yaml")
    assert damaged(bag)[::2] == ([text("/a", 1, "x")], ["secret.mcap of the recording is missing"])


def test_links_in_the_input_are_followed_to_files_only(tmp_path: Path) -> None:
    bag = split_bag(tmp_path / "bag", [[text("/a", n, "x")] for n in range(3)])
    for name, target in (("bag_0", "../elsewhere.mcap"), ("bag_1", "bag_1.mcap"), ("bag_2", "/dev/zero")):
        (bag / f"{name}.mcap").rename(tmp_path / "elsewhere.mcap" if name == "bag_0" else tmp_path / "aside")
        (bag / f"{name}.mcap").symlink_to(target)
    assert damaged(bag)[::2] == ([text("/a", 0, "x")], ["bag_1.mcap, bag_2.mcap of the recording is missing"])
    (bag / "metadata.yaml").unlink()
    assert damaged(bag)[0] == [text("/a", 0, "x")]


@pytest.mark.parametrize("depth", ["abc", "null", "[1]", ".inf", "99999999999999999999", '!!int ""'])
def test_a_profile_that_is_none_counts_as_none(tmp_path: Path, derainer: Derainer, depth: str) -> None:
    sent = [image("/cam/image_raw", START_NS, smooth_frames(1)[0]), text("/a", START_NS + 1, "x")]
    bag = write_bag(tmp_path / "bag", sent, "sqlite3", qos={"/a": profile("TRANSIENT_LOCAL", 1)})
    metadata = bag / "metadata.yaml"
    assert "depth: 1\n" in metadata.read_text()
    metadata.write_text(metadata.read_text().replace("depth: 1\n", f"depth: {depth}\n"))
    assert derain_bag(derainer, bag, tmp_path / "out").messages == 4


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("field", ["uncompressed size", "data length", "record length"])
def test_sizes_in_mcap_that_no_memory_holds(tmp_path: Path, indexed: bool, field: str) -> None:
    bag = write_bag(tmp_path / "bag", [text("/a", n, "x") for n in range(3)])
    with (bag / "bag.mcap").open("rb") as stream:
        summary = make_reader(stream).get_summary()
        assert summary is not None
        (chunk,) = summary.chunk_indexes
    content = bytearray((bag / "bag.mcap").read_bytes())
    start = chunk.chunk_start_offset
    assert content[start] == Opcode.CHUNK
    # Opcode, length, start and end time, size, checksum, compression ("", as a length), data length.
    place = start + {"record length": 1, "uncompressed size": 25, "data length": 41}[field]
    struct.pack_into("<Q", content, place, HUGE)
    if field == "uncompressed size" and indexed:  # the index says so too
        old = struct.pack("<Q", chunk.uncompressed_size)
        content[content.rindex(old) : content.rindex(old) + 8] = struct.pack("<Q", HUGE)
    if not indexed:
        content[-28:-20] = bytes(8)  # where the summary starts
    (bag / "bag.mcap").write_bytes(content)
    try:
        read, _, missing = damaged(bag)
    except BagError as err:
        missing, read = [str(err)], []
    assert len(read) in (0, 3)
    assert missing or read


def test_a_report_of_another_shape(tmp_path: Path, derainer: Derainer) -> None:
    source = write_bag(tmp_path / "in", [image("/cam/image_raw", START_NS, smooth_frames(1)[0])])
    derain_bag(derainer, source, tmp_path / "out")
    for content in ("[" * 100_000, "[]", "{}", '{"cameras": 1}', '{"cameras": [1]}', '{"cameras": []}'):
        (tmp_path / "out" / "sapnet_report.json").write_text(content)
        with pytest.raises(SapnetError, match=r"sapnet_report\.json is damaged \(.*\); derain .* with --overwrite"):
            derain_bag(derainer, source, tmp_path / "out", resume=True)
