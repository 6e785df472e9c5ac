"""Recordings that were made to do harm end in an error or in a note, never in a crash, and read nothing else."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from mcap.opcode import Opcode
from mcap.reader import make_reader
from ruamel.yaml import YAML

from bag_builders import START_NS, image, profile, smooth_frames, split_bag, text, write_bag
from sapnet.bags import open_recording
from sapnet.bags.derain import derain_bag
from sapnet.derainer import Derainer
from sapnet.errors import BagError, SapnetError

HUGE = 2**62


def times(path: Path) -> tuple[list[int], list[str]]:
    """Log times of what can be read, and what is missing."""
    with open_recording(path) as bag:
        return [message.time_ns for message in bag.messages()], list(bag.missing)


@pytest.mark.parametrize("named", ["../secret/secret.mcap", "{}/secret/secret.mcap", "bag/../../secret/secret.mcap"])
def test_metadata_names_no_file_outside_of_its_folder(tmp_path: Path, named: str) -> None:
    write_bag(tmp_path / "secret", [text("/secret", 7, "x")])
    bag = write_bag(tmp_path / "bag", [text("/a", 1, "x")])
    content = YAML(typ="safe").load(bag / "metadata.yaml")
    content["rosbag2_bagfile_information"]["relative_file_paths"] += [named.format(tmp_path)]
    YAML(typ="safe").dump(content, bag / "metadata.yaml")
    assert times(bag) == ([1], ["secret.mcap of the recording is missing"])


def test_links_in_the_input_are_followed_to_files_only(tmp_path: Path) -> None:
    bag = split_bag(tmp_path / "bag", [[text("/a", n, "x")] for n in range(3)])
    for name, target in (("bag_0", "../elsewhere.mcap"), ("bag_1", "bag_1.mcap"), ("bag_2", "/dev/zero")):
        (bag / f"{name}.mcap").rename(tmp_path / "elsewhere.mcap" if name == "bag_0" else tmp_path / "aside")
        (bag / f"{name}.mcap").symlink_to(target)
    assert times(bag) == ([0], ["bag_1.mcap, bag_2.mcap of the recording is missing"])
    (bag / "metadata.yaml").unlink()
    assert times(bag)[0] == [0]


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
        read, missing = times(bag)
    except BagError as err:
        missing, read = [str(err)], []
    assert read in ([], [0, 1, 2])
    assert missing or read


def test_a_report_of_another_shape(tmp_path: Path, derainer: Derainer) -> None:
    source = write_bag(tmp_path / "in", [image("/cam/image_raw", START_NS, smooth_frames(1)[0])])
    derain_bag(derainer, source, tmp_path / "out")
    for content in ("[" * 100_000, "[]", "{}", '{"cameras": 1}', '{"cameras": [1]}', '{"cameras": []}'):
        (tmp_path / "out" / "sapnet_report.json").write_text(content)
        with pytest.raises(SapnetError, match=r"sapnet_report\.json is damaged \(.*\); derain .* with --overwrite"):
            derain_bag(derainer, source, tmp_path / "out", resume=True)
