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
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bag(path, [text("/note", START_NS, "rain")], storage)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"storage")
    return path


def outputs(inputs: list[str], out: Path) -> dict[str, str]:
    """Sources and outputs, both relative to the folder that holds ``out``."""
    root = out.parent
    return {str(b.source.relative_to(root)): str(b.output.relative_to(root)) for b in plan_bags(inputs, out)}


def test_a_folder_keeps_its_layout(tmp_path: Path) -> None:
    record(tmp_path / "drives/monday/front")
    record(tmp_path / "drives/monday/rear", "sqlite3")
    touch(tmp_path / "drives/old.bag")
    touch(tmp_path / "drives/tuesday/lone.mcap")
    assert outputs([str(tmp_path / "drives")], tmp_path / "out") == {
        "drives/monday/front": "out/monday/front",
        "drives/monday/rear": "out/monday/rear",
        "drives/old.bag": "out/old",
        "drives/tuesday/lone.mcap": "out/tuesday/lone",
    }


@pytest.mark.parametrize(
    "pattern", ["drives/**", "drives/**/*.mcap", "drives/*/front", "drives/mon*", "drives/[m]*/f*"]
)
def test_a_pattern_keeps_the_layout_below_what_is_no_pattern(tmp_path: Path, pattern: str) -> None:
    record(tmp_path / "drives/monday/front")
    found = outputs([str(tmp_path / pattern)], tmp_path / "out")
    assert found == {"drives/monday/front": "out/monday/front"}


def test_numbered_files_without_metadata_are_one_recording(tmp_path: Path) -> None:
    for number in range(3):
        touch(tmp_path / f"drives/cut/drive_{number}.mcap")
    for name in ("a", "b"):
        touch(tmp_path / f"drives/several/{name}.mcap")
    touch(tmp_path / "drives/exported/run_7.mcap")
    assert outputs([str(tmp_path / "drives/**")], tmp_path / "out") == {
        "drives/cut": "out/cut",
        "drives/several/a.mcap": "out/several/a",
        "drives/several/b.mcap": "out/several/b",
        "drives/exported/run_7.mcap": "out/exported/run_7",
    }


def test_outputs_and_what_is_hidden_or_unfinished_are_no_inputs(tmp_path: Path) -> None:
    record(tmp_path / "drives/front")
    record(tmp_path / "drives/.trash/old")
    record(tmp_path / "drives/out/front")
    record(tmp_path / "drives/other.partial/bag")
    touch(record(tmp_path / "drives/derained") / "sapnet_report.json")
    for given in ("drives", "drives/**", "drives/*"):
        found = [bag.source.name for bag in plan_bags([str(tmp_path / given)], tmp_path / "drives/out")]
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


def test_two_recordings_with_one_output_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "a/front")
    record(tmp_path / "b/front")
    with pytest.raises(SapnetError, match=r"a/front and .*b/front would both be written to .*out/front; name a folder"):
        plan_bags([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out")


def test_an_output_inside_another_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "drives/front.mcap")
    record(tmp_path / "drives/front/more")
    with pytest.raises(SapnetError, match=r"inside the output of .*front.mcap; rename one"):
        plan_bags([str(tmp_path / "drives")], tmp_path / "out")


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    (tmp_path / "drives").mkdir()
    with pytest.raises(SapnetError, match=r"no recording in .*drives; expected folders with metadata\.yaml"):
        plan_bags([str(tmp_path / "drives")], tmp_path / "out")
    with pytest.raises(SapnetError, match="absent does not exist"):
        plan_bags([str(tmp_path / "absent")], tmp_path / "out")
