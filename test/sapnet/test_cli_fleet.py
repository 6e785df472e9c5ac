"""``sapnet fleet`` as it is called; test_fleet_cluster.py interrupts it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bag_builders import START_NS, image, smooth_frames, text, write_bag
from sapnet.cli import main


def test_a_fleet_that_is_done_needs_no_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sapnet import Derainer
    from sapnet.bags.derain import derain_bag

    bag = write_bag(tmp_path / "drives/a", [image("/cam/image_raw", START_NS, smooth_frames(1)[0])])
    with Derainer(backend="fake") as derainer:
        (tmp_path / "out").mkdir()
        derain_bag(derainer, bag, tmp_path / "out/a")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["fleet", str(tmp_path / "drives"), "-o", str(tmp_path / "out"), "--backend", "fake"]) == 0
    assert "1 recording: 0 done, 1 kept, 0 failed" in capsys.readouterr().out


def test_without_ray_the_install_line_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bag(tmp_path / "drives/a", [text("/note", START_NS, "rain")])
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["fleet", str(tmp_path / "drives"), "-o", str(tmp_path / "out")]) == 2
    assert "pip install '.[fleet]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chunk", "10", "--stride", "2"], "--stride counts frames from a recording's start"),
        (["--chunk", "0"], "expected seconds above 0, got '0'"),
        (["--cpus-per-worker", "1.5"], "expected a part of 1 such as 0.5, or a whole number, got '1.5'"),
        (["--workers", "0"], "expected a whole number of at least 1, got '0'"),
        (["--address", "127.0.0.1:9"], "cannot connect to the Ray cluster at 127.0.0.1:9"),
        (["--address", "somewhere"], "expected HOST:PORT of the head node, or auto"),
    ],
)
def test_wrong_usage_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    if "--address" in words:
        pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/fleet.txt")
    write_bag(tmp_path / "drives/a", [text("/note", START_NS, "rain")])
    assert main(["fleet", str(tmp_path / "drives"), "-o", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
