"""``sapnet fleet`` as it is called, on a Ray of its own on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ctrl_c import heed_ctrl_c

from bag_builders import FRAME_NS, START_NS, image, smooth_frames, text, write_bag
from sapnet.cli import main

FRAMES = 2000


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """Two recordings that take a while, and a file that is none."""
    (tmp_path / "drives").mkdir()
    frames = smooth_frames(10)
    for name in ("a", "b"):
        sent = (image("/cam/image_raw", START_NS + n * FRAME_NS, frames[n % 10]) for n in range(FRAMES))
        write_bag(tmp_path / "drives" / name, sent)
    (tmp_path / "drives/broken.mcap").write_bytes(b"no recording")
    return tmp_path / "drives"


def start(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sapnet", "fleet", *map(str, words), "--backend", "fake", "--retries", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)


def test_an_interrupted_fleet_goes_on_and_says_what_failed(drives: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/fleet.txt")
    out = tmp_path / "out"
    first = start(f"{drives}/**", "-o", out, "--workers", "1")
    until_s = time.monotonic() + 120.0
    while not (out / "a.partial/part").is_dir():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    said = first.communicate()[1]
    assert first.returncode == 130, said
    assert "interrupted" in said
    assert not (out / "a").exists()

    second = start(f"{drives}/**", "-o", out, "--workers", "2", "--json")
    printed, said = second.communicate()
    assert second.returncode == 1, said
    summary = json.loads(printed)
    assert summary == json.loads((out / "summary.json").read_text())
    assert {Path(row["input"]).name: row["state"] for row in summary["rows"]} == {
        "a": "done",
        "b": "done",
        "broken.mcap": "failed",
    }
    assert [row["frames"] for row in summary["rows"]] == [FRAMES, FRAMES, 0]
    assert summary["workers"] == 2


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
