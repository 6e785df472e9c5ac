"""Which recordings a fleet finds, and what their outputs are called."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bag_builders import START_NS, text, write_bag
from sapnet.errors import SapnetError
from sapnet.fleet import plan_bags


def record(path: Path, storage: str = "mcap") -> Path:
    return write_bag(path, [text("/note", START_NS, "rain")], storage)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"storage")
    return path


def outputs(inputs: list[str], out: Path) -> dict[str, str]:
    """Sources and outputs, both relative to the folder that holds ``out``."""
    root = out.parent
    return {os.path.relpath(row.input, root): os.path.relpath(row.output, root) for row in plan_bags(inputs, out)}


def test_a_folder_keeps_its_layout(tmp_path: Path) -> None:
    record(tmp_path / "drives/monday/front")
    record(tmp_path / "drives/monday/rear", "sqlite3")
    touch(tmp_path / "drives/old.bag")
    touch(tmp_path / "drives/tuesday/lone.mcap.zstd")
    touch(tmp_path / "drives/exported/run_7.mcap")
    for number in range(3):
        touch(tmp_path / f"drives/cut/drive_{number}.mcap")  # one recording, without metadata
    for name in ("a", "b"):
        touch(tmp_path / f"drives/several/{name}.mcap")
    expected = {
        "drives/monday/front": "out/monday/front",
        "drives/monday/rear": "out/monday/rear",
        "drives/old.bag": "out/old",
        "drives/tuesday/lone.mcap.zstd": "out/tuesday/lone",
        "drives/cut": "out/cut",
        "drives/several/a.mcap": "out/several/a",
        "drives/several/b.mcap": "out/several/b",
        "drives/exported/run_7.mcap": "out/exported/run_7",
    }
    assert outputs([str(tmp_path / "drives")], tmp_path / "out") == expected
    assert outputs([str(tmp_path / "drives/**")], tmp_path / "out") == expected


@pytest.mark.parametrize("pattern", ["drives/**/*.mcap", "drives/*/front", "drives/mon*", "drives/[m]*/f*"])
def test_a_pattern_keeps_the_layout_below_what_is_no_pattern(tmp_path: Path, pattern: str) -> None:
    record(tmp_path / "drives/monday/front")
    found = outputs([str(tmp_path / pattern)], tmp_path / "out")
    assert found == {"drives/monday/front": "out/monday/front"}


def test_outputs_and_what_is_hidden_or_unfinished_are_no_inputs(tmp_path: Path) -> None:
    record(tmp_path / "drives/front")
    record(tmp_path / "drives/.trash/old")
    record(tmp_path / "drives/out/front")
    record(tmp_path / "drives/other.partial/bag")
    touch(record(tmp_path / "drives/derained") / "sapnet_report.json")
    for given in ("drives", "drives/**", "drives/*"):
        found = [Path(row.input).name for row in plan_bags([str(tmp_path / given)], tmp_path / "drives/out")]
        assert found == ["front"], given


def test_folders_that_cannot_be_read_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path / "drives/front")
    record(tmp_path / "drives/private/rear")
    listed = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "private":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    assert outputs([str(tmp_path / "drives")], tmp_path / "out") == {"drives/front": "out/front"}
    assert "drives/private cannot be read (Permission denied): skipped" in caplog.text


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "a/front")
    record(tmp_path / "b/front")
    touch(tmp_path / "c/front.mcap")
    record(tmp_path / "c/front/more")
    record(tmp_path / "out/drives/front")
    (tmp_path / "empty").mkdir()
    for names, said in (
        ("ab", r"a/front and .*b/front would both be written to .*out/front; name a folder"),
        ("c", r"inside the output of .*front.mcap; rename one"),
        (["empty"], r"no recording in .*empty; expected folders with metadata\.yaml"),
        (["absent"], "absent does not exist"),
        (["out/drives"], r"out/drives is inside the output folder .*out; choose another"),
    ):
        with pytest.raises(SapnetError, match=said):
            plan_bags([str(tmp_path / name) for name in names], tmp_path / "out")
