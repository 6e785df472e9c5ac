"""Paired sets on disk, their statistics, and the sheet of samples."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from picture_builders import flat
from sapnet.media.pictures import read_image, write_image
from sapnet.rain import RainConfig, StreakLayer
from training.datasets.paired import find_pairs, read_pair
from training.metrics import true_streaks
from training.synthesize import RainySample, main, statistics, synthesize


def test_a_written_set_is_whole_and_its_masks_are_exact(photographs: Path, tmp_path: Path) -> None:
    assert main([str(photographs), str(tmp_path), "--rain", "heavy", "--copies", "2"]) == 0
    made = dict(synthesize(photographs, "heavy", seed=0, copies=2))
    assert [*made] == [f"{stem}_{copy}" for stem in range(5) for copy in (1, 2)]
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == [*made]
    assert len([*(tmp_path / "streaks").iterdir()]) == len(made)
    for pair in pairs:
        rainy, clean = read_pair(pair)
        mask = cv2.imread(str(tmp_path / "streaks" / f"{pair.name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(rainy, made[pair.name].rainy)
        assert np.array_equal(mask, made[pair.name].streaks * 255)
        assert np.array_equal(clean, read_image(photographs / f"{pair.name[0]}.png"))


def test_statistics_leave_dry_samples_out_and_tell_upright_streaks_from_others() -> None:
    clean, rainy = flat(0, 8, 9), flat(0, 8, 9)
    rainy[:, 4] = 40  # one upright streak
    samples = [RainySample(*pair, true_streaks(*pair)) for pair in ((rainy, clean), (clean, clean))]
    images, psnr, share, brightness, dx, dy = statistics(samples)
    assert (images, brightness, dx, dy) == (1, 40, 2 * 40 / 8, 0)
    assert share == pytest.approx(1 / 9)
    assert psnr == pytest.approx(10 * np.log10(255**2 * 9 / (40 * 218.98 / 255) ** 2), abs=0.01)


def test_mist_is_no_streak(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faint = StreakLayer(count=1, length=0.1, width=0.01, brightness=1)
    monkeypatch.setattr("training.synthesize.draw_rain", lambda *_: RainConfig(layers=(faint,), mist=0.5))
    _, sample = next(synthesize(photographs, "light", 0))
    assert np.abs(sample.rainy.astype(int) - sample.clean).mean() > 10
    assert not sample.streaks.any()


def test_sheet_shows_24_samples(photographs: Path, tmp_path: Path) -> None:
    assert main([str(photographs), "--sheet", str(tmp_path / "sheet.png")]) == 0
    height, width, _ = read_image(tmp_path / "sheet.png").shape
    # Three rows of eight photographs of 72x88 pixels, their longer side 320 now.
    assert 3 * 262 < height < 4 * 262
    assert 8 * 320 < width < 9 * 320


def test_photographs_of_one_name_in_several_folders_are_kept_apart(tmp_path: Path) -> None:
    for place, level in (("day", 50), ("night", 20)):
        write_image(tmp_path / "in" / place / "1.png", flat(level, 32, 32))
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), "--rain", "dry"]) == 0
    found = {path.name: int(read_image(path).max()) for path in (tmp_path / "out" / "rainy").iterdir()}
    assert found == {"day_1.png": 50, "night_1.png": 20}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "no such folder"),
        (["."], "nothing to write"),
        ([".", "out", "--seed", "-1"], "at least 0, got '-1'"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(arguments))
    assert message in capsys.readouterr().err
