"""The evaluation command on made-up pairs, with the fake backend in place of a network."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from picture_builders import flat, write_pair
from sapnet import Derainer
from sapnet.errors import ImageFormatError
from sapnet.images.frame import psnr, psnr_y, to_y
from sapnet.media.pictures import read_image, write_image
from training.datasets.paired import find_pairs
from training.evaluate import main
from training.metrics import RAINY_INPUT, network, results, score, ssim

# 20 levels of rain on half of an image.
PSNR_RGB = 20 * math.log10(255 / 20) + 10 * math.log10(2)
PSNR_Y = PSNR_RGB + 20 * math.log10(255 / 219)


@pytest.fixture
def pairs(tmp_path):
    """Two pairs, 20 levels of rain on the upper half; endings differ as in real sets."""
    folder = tmp_path / "pairs"
    for index in range(2):
        rainy = flat(100 + index, 20, 24)
        write_image(folder / "clean" / f"{index}.bmp", rainy)
        rainy[:10] += 20
        write_image(folder / "rainy" / f"{index}.png", rainy)
    return folder


@pytest.fixture
def derained(tmp_path, pairs):
    """What another program made of the pairs: the first is perfect, of the second the left half is."""
    folder = tmp_path / "derained"
    for index in range(2):
        result = flat(100 + index, 20, 24)
        result[:10, 12:] += 20 * index
        write_image(folder / f"{index}.tif", result)
    return folder


def run(capsys, *arguments) -> str:
    """The command's output, the fake backend in the network's place."""
    assert main([*map(str, arguments), "--backend", "fake"]) == 0
    return capsys.readouterr().out


def test_a_derainer_that_does_nothing_changes_nothing(pairs):
    found = find_pairs(pairs)
    with Derainer(backend="fake") as derainer:
        derained, rainy = score(network(derainer), found), score(RAINY_INPUT, found)
    assert derained.figures == rainy.figures
    assert derained.figures["psnr_y"] == pytest.approx(PSNR_Y)
    assert derained.figures["ssim_y"] < 1
    assert [derained.figures[name] for name in ("precision", "recall", "matthews")] == [0, 0, 0]
    assert derained.figures["f1_all_ones"] == pytest.approx(2 / 3)


class TestResults:
    def test_of_each_image_and_of_all(self, pairs, derained):
        found = find_pairs(pairs)
        scored = score(results(derained, found), found)
        assert list(scored.images) == ["0", "1"]
        perfect, half = scored.images.values()
        assert (perfect["psnr_y"], perfect["psnr_rgb"], perfect["f1"]) == (math.inf, math.inf, 1.0)
        assert perfect["ssim_y"] == perfect["ssim_rgb"] == pytest.approx(1.0)
        result, clean = read_image(derained / "1.tif"), read_image(pairs / "clean" / "1.bmp")
        expected = {"psnr_y": psnr_y(result, clean), "psnr_rgb": psnr(result, clean), "ssim_rgb": ssim(result, clean)}
        expected["ssim_y"] = ssim(to_y(result), to_y(clean))
        assert {name: half[name] for name in expected} == pytest.approx(expected)
        assert (half["precision"], half["recall"]) == (1.0, 0.5)
        assert scored.figures["psnr_y"] == math.inf
        assert scored.figures["ssim_y"] == pytest.approx((perfect["ssim_y"] + half["ssim_y"]) / 2)

    @pytest.mark.parametrize(("threshold", "streaks"), [(19, 240 + 120), (20, 0)])
    def test_the_mask_is_what_was_taken_out_above_the_threshold_pooled_over_pixels(
        self, threshold, streaks, pairs, derained
    ):
        write_pair(pairs, "2.png", flat(80, 20, 240), flat(50, 20, 240))  # larger, all of it rain that stays
        write_image(derained / "2.png", flat(80, 20, 240))
        found = find_pairs(pairs)
        figures = score(results(derained, found, "other", threshold), found).figures
        assert figures["recall"] == pytest.approx(streaks / (240 + 240 + 4800))
        assert figures["precision"] == (1.0 if streaks else 0.0)

    def test_lists_what_is_missing_and_what_cannot_be_scored(self, pairs, derained):
        found = find_pairs(pairs)
        (derained / "0.tif").write_text("no image")
        write_image(derained / "1.tif", flat(0, 20, 25))
        with pytest.raises(ImageFormatError, match=r"0\.tif is not a picture(.|\n)*1\.tif is 20x25, .*1\.bmp is 20x24"):
            results(derained, found)
        (derained / "0.tif").unlink()
        with pytest.raises(ImageFormatError, match=r"lacks results(.|\n)*no result for 0\.png$"):
            results(derained, found)

    def test_of_several_data_sets_lie_in_folders_of_their_names(self, pairs, derained, tmp_path, capsys):
        other = tmp_path / "other"
        write_pair(other, "0.png", flat(7, 20, 24), flat(7, 20, 24))
        write_image(tmp_path / "all" / "other" / "0.png", flat(9, 20, 24))
        derained.rename(tmp_path / "all" / "pairs")
        first, second = json.loads(run(capsys, "--data", pairs, other, "--results", tmp_path / "all", "--json"))
        assert [method["name"] for method in first["methods"]] == ["rainy input", "all"]
        assert first["methods"][1]["recall"] == 0.75
        assert second["methods"][1]["psnr_rgb"] == pytest.approx(20 * math.log10(255 / 2))


class TestOutput:
    def test_table(self, pairs, derained, capsys):
        heading, _, setting, _, *lines = run(capsys, "--data", pairs, "--results", derained).splitlines()
        assert heading == "### pairs"
        assert setting == "2 pairs; 50.0% of the pixels are streaks, a mask of all pixels has F1 0.667"
        table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert {len(line) for line in lines} == {len(lines[0])}
        assert [row[0] for row in table] == ["method", table[1][0], "rainy input", "derained"]
        assert set(table[1][0]) == {"-"}
        assert [set(cell) for cell in table[1][1:]] == [{"-", ":"}] * 9
        assert (table[2][2], table[2][-4:]) == (f"{PSNR_Y:.2f}", ["-"] * 4)  # it marks nothing
        assert (table[3][1], table[3][2], table[3][-3]) == ("", "inf", "0.750")

    def test_json_is_valid_where_images_are_equal(self, pairs, derained, capsys):
        def refuse(constant):
            raise AssertionError(constant)

        text = run(capsys, "--data", pairs, "--results", derained, "--weights", "sapnet_fast", "--json")
        [report] = json.loads(text, parse_constant=refuse)
        assert (report["name"], report["pairs"], report["streak_share"]) == ("pairs", 2, 0.5)
        assert [method["name"] for method in report["methods"]] == ["rainy input", "derained", "sapnet_fast"]
        _, other, network = report["methods"]
        assert other["psnr_y"] is None
        assert [image["psnr_y"] for image in other["images"]] == [None, pytest.approx(PSNR_Y + 3.0103, abs=1e-4)]
        assert (network["stages"], network["backend"], network["source"]) == (4, "fake fp32", "sapnet_fast")

    def test_sheet(self, pairs, derained, tmp_path, capsys):
        run(capsys, "--data", pairs, "--weights", "sapnet_fast", "--results", derained, "--sheet", tmp_path / "s.png")
        sheet = read_image(tmp_path / "s.png")
        # Two rows, best and worst; rainy, two methods with masks, clean, true streaks.
        assert 7 * 320 <= sheet.shape[1] < 8 * 320
        assert 2 * 267 <= sheet.shape[0] < 3 * 267

    def test_a_folder_of_data_sets_is_all_of_them(self, pairs, capsys):
        pairs.rename(pairs.parent / "moved")
        pairs.mkdir()
        for name in ("Rain12", "Rain100L"):
            shutil.copytree(pairs.parent / "moved", pairs / name)
        reports = json.loads(run(capsys, "--data", pairs, "--json"))
        assert [(report["name"], report["pairs"]) for report in reports] == [("Rain12", 2), ("Rain100L", 2)]

    def test_every_stage(self, pairs, capsys):
        [report] = json.loads(run(capsys, "--data", pairs, "--every-stage", "--json"))
        assert [method["stages"] for method in report["methods"]] == [None, 1, 2, 3, 4]


def test_wrong_input_is_found_before_anything_is_scored(pairs, capsys):
    (pairs / "rainy" / "1.png").write_text("no image")
    assert main(["--data", str(pairs), "--backend", "fake"]) == 2
    assert "1.png is not a picture that can be read" in capsys.readouterr().err
    for option, value, said in (("--mask-threshold", "256", "from 0 to 255"), ("--sheet", "sheet", "ends in .png")):
        with pytest.raises(SystemExit, match="2"):
            main(["--data", str(pairs), option, value])
        assert said in capsys.readouterr().err
