"""Files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapnet.errors import SapnetError
from sapnet.files import natural_key, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SapnetError, SystemExit])
def test_what_is_not_finished_leaves_nothing_and_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def stop_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    path = tmp_path / "file.txt"
    path.write_text("earlier")
    with pytest.raises(error):
        stop_half_way()
    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SapnetError, match=r"taken/file\.txt cannot be written"), replacing(tmp_path / "taken/file.txt"):
        pass


def test_natural_key() -> None:
    names = ["b1", "a10", "a9", "a", "10", "9", "a9b2", "a9b10"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a9", "a9b2", "a9b10", "a10", "b1"]
