"""Published layouts as trees of small files, and what is said of broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from picture_builders import flat, write_pair
from sapnet.errors import ImageFormatError
from training.datasets.paired import ImagePair, check, find_pairs, find_sets, set_folders


def make(folder: Path, *names: str) -> Path:
    """Files of those names, which only their names make images."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def pairs_in(folder: Path) -> list[tuple[str, str]]:
    """The rainy and clean images of a folder's pairs, relative to it."""
    found = find_pairs(folder)
    assert [pair.name for pair in found] == [pair.rainy.stem for pair in found]
    return [(str(pair.rainy.relative_to(folder)), str(pair.clean.relative_to(folder))) for pair in found]


def problems(folder: Path) -> list[str]:
    with pytest.raises(ImageFormatError) as caught:
        find_pairs(folder)
    return str(caught.value).split("\n  ")


# Files, and the pair among them.
LAYOUTS = {
    "rainy and clean": (("rainy/1.png", "clean/1.jpg"), ("rainy/1.png", "clean/1.jpg")),
    "input and target": (("input/1.png", "target/1.png"), ("input/1.png", "target/1.png")),
    "capitals": (("Rain/A.PNG", "GT/a.png"), ("Rain/A.PNG", "GT/a.png")),
    "masks beside it": (("rainy/1.png", "clean/1.png", "streak_mask/1.png"), ("rainy/1.png", "clean/1.png")),
    "Rain100 flat": (
        ("rain-001.png", "norain-001.png", "rainstreak-001.png", "rainregion-001.png", "readme.txt"),
        ("rain-001.png", "norain-001.png"),
    ),
    "Rain100 published": (
        ("rainy/rain-001.png", "norain-001.png", "rain-001.png"),
        ("rainy/rain-001.png", "norain-001.png"),
    ),
    "Rain100 in two folders": (
        ("rain/rain-001.png", "norain/norain-001.png"),
        ("rain/rain-001.png", "norain/norain-001.png"),
    ),
    "Rain100 as renamed": (("rain/norain-1.png", "norain/norain-1.png"), ("rain/norain-1.png", "norain/norain-1.png")),
    "flat beside photographs": (("rain-1.png", "norain-1.png", "clean/7.png"), ("rain-1.png", "norain-1.png")),
    "Rain12 flat": (("001_in.png", "001_GT.png"), ("001_in.png", "001_GT.png")),
    "Rain200H": (("rain/norain-1x2.png", "norain/norain-1.png"), ("rain/norain-1x2.png", "norain/norain-1.png")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts(layout, tmp_path):
    files, pair = LAYOUTS[layout]
    assert pairs_in(make(tmp_path, *files)) == [pair]


def test_rain1400_has_fourteen_of_each_in_natural_order(tmp_path):
    rainy = [f"rainy_image/{scene}_{kind}.jpg" for scene in (1, 2, 10) for kind in range(1, 15)]
    make(tmp_path, *rainy, *(f"ground_truth/{scene}.jpg" for scene in (1, 2, 10)))
    clean = [f"ground_truth/{scene}.jpg" for scene in (1, 2, 10) for _ in range(14)]
    assert pairs_in(tmp_path) == [*zip(rainy, clean, strict=True)]


def test_lists_everything_that_does_not_pair_up(tmp_path):
    make(tmp_path, "rainy/1.png", "clean/1.png", "rainy/2.png", "clean/3.png", "rainy/1.jpg")
    title, *lines = problems(tmp_path)
    assert title.startswith(f"{tmp_path} does not pair up")
    assert lines == [
        f"{tmp_path}/rainy/2.png: no clean image of that name",
        f"{tmp_path}/clean/3.png: no rainy image of that name",
        f"{tmp_path}/rainy/1.jpg: two images have this name",
        f"{tmp_path}/rainy/1.png: two images have this name",
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("train/1.png", "test/1.png"), "holds 0 images, test/ with 1, train/ with 1"),
        (("rainy/1.png", "input/1.png", "clean/1.png"), "input/ with 1, rainy/ with 1"),
    ],
)
def test_a_folder_without_a_known_layout(files, said, tmp_path):
    [line] = problems(make(tmp_path, *files))
    assert said in line
    assert "expected rainy/ and clean/" in line


class TestSets:
    def test_a_set_is_itself_and_a_folder_of_sets_is_those(self, tmp_path):
        for name in ("Rain100L", "Rain12", "Rain100H"):
            make(tmp_path / "test" / name, "rainy/1.png", "clean/1.png")
        make(tmp_path / "test", "photographs/1.png", "readme.txt", ".hidden/rainy/1.png", ".hidden/clean/1.png")
        folders = [tmp_path / "test" / name for name in ("Rain12", "Rain100H", "Rain100L")]
        assert set_folders(folders[0]) == [folders[0]]
        assert set_folders(tmp_path / "test") == folders
        assert list(find_sets([tmp_path / "test"])) == ["Rain12", "Rain100H", "Rain100L"]

    def test_sets_whose_folders_have_one_name_are_told_apart(self, tmp_path):
        folders = [str(make(tmp_path / place / "set", "rainy/1.png", "clean/1.png")) for place in ("a", "b")]
        assert list(find_sets(folders)) == folders


def test_check_lists_all_that_is_wrong(tmp_path):
    names = [f"{number}.png" for number in range(5)]
    pairs = [ImagePair(name, tmp_path / "rainy" / name, tmp_path / "clean" / name) for name in names]
    for name in names:
        write_pair(tmp_path, name, flat(0, 16, 20), flat(0, 16, 20))
    check(pairs)
    write_pair(tmp_path, names[0], flat(0, 15, 20), flat(0, 15, 20))
    write_pair(tmp_path, names[1], flat(0, 20, 20), flat(0, 16, 20))
    pairs[2].clean.write_bytes(pairs[2].clean.read_bytes()[:40])
    pairs[3].rainy.write_text("no image")
    pairs[4].rainy.unlink()
    with pytest.raises(ImageFormatError) as caught:
        check(pairs)
    _, *lines = str(caught.value).split("\n  ")
    named = (pairs[0].rainy, pairs[1].rainy, pairs[2].clean, pairs[3].rainy, pairs[4].rainy)
    for path, line in zip(named, lines, strict=True):
        assert str(path) in line
    assert lines[0].endswith("is 15x20, expected at least 16x16")
    assert lines[1] == f"{pairs[1].rainy} is 20x20, its clean image {pairs[1].clean} is 16x20"
