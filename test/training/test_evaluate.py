"""The evaluation command on made-up pairs, with the fake backend in place of a network."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from sapnet import Derainer
from sapnet.errors import ImageFormatError
from training.evaluate import COLUMNS, evaluate, main


@pytest.fixture
def pairs(tmp_path):
    """Two pairs, 20 levels of rain on the upper half; endings differ as in real sets."""
    for name in ("rainy", "clean"):
        (tmp_path / name).mkdir()
    for index in range(2):
        clean = np.full((20, 24, 3), 100 + index, np.uint8)
        rainy = clean.copy()
        rainy[:10] += 20
        cv2.imwrite(str(tmp_path / "clean" / f"{index}.bmp"), clean)
        cv2.imwrite(str(tmp_path / "rainy" / f"{index}.png"), rainy)
    return tmp_path


def test_a_derainer_that_does_nothing_changes_nothing(pairs):
    with Derainer(backend="fake") as derainer:
        figures = evaluate(derainer, pairs)
    assert figures["images"] == 2
    assert (
        figures["psnr"]
        == figures["psnr_rainy"]
        == pytest.approx(20 * np.log10(255 / (20 * 219 / 255)) + 3.01, abs=0.01)
    )
    assert figures["ssim"] == figures["ssim_rainy"] < 1
    assert (figures["precision"], figures["recall"], figures["matthews"]) == (0, 0, 0)
    assert figures["f1_all_ones"] == pytest.approx(2 / 3)


def test_prints_a_table_or_json(pairs, capsys):
    assert main(["--data", str(pairs), "--backend", "fake", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)[str(pairs)]
    assert figures.keys() == {"images", *COLUMNS}
    assert main(["--data", str(pairs), "--backend", "fake"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["images", *COLUMNS, "data"]
    assert row.split()[3] == f"{figures['psnr']:.3f}"


def test_missing_clean_image(pairs):
    (pairs / "clean" / "1.bmp").unlink()
    with Derainer(backend="fake") as derainer, pytest.raises(ImageFormatError, match=r"1\.png: no clean image"):
        evaluate(derainer, pairs)


def test_wrong_input_is_one_line_and_status_2(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--backend", "fake"]) == 2
    assert "expected rainy/ and clean/" in capsys.readouterr().err


def test_not_an_image(pairs, capsys):
    (pairs / "rainy" / "0.png").write_text("no image")
    assert main(["--data", str(pairs), "--backend", "fake"]) == 2
    assert "0.png: not an image" in capsys.readouterr().err
