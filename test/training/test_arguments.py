"""Arguments that several commands of training share."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from training.arguments import parse_duration, parse_seed


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:00:07", 7), ("01:30:00", 5400), ("2:03:04", 7384), ("01:02:00:00", 93600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "01:30", "01:30:0", "-01:30:00", "1h", "00:00:00", "1:2:3:4:5"])
def test_wrong_durations_are_said(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"expected a time such as .*, got '{text}'"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["-1", "1.5", ""])
def test_wrong_seeds_are_said(text: str) -> None:
    assert parse_seed("0") == 0
    with pytest.raises(ArgumentTypeError, match=f"0 or more, got '{text}'"):
        parse_seed(text)
