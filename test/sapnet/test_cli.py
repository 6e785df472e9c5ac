"""The command line's frame: finding commands, exit statuses, help, and the arguments that commands share."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sapnet
from bag_builders import drive, write_bag
from sapnet import cli, derainer
from sapnet.backends import BackendSpec, BuildStatus
from sapnet.backends.base import EngineShape
from sapnet.commands.common import add_network_arguments, derainer_from, parse_shape, tell_builds
from sapnet.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[[argparse.Namespace], int]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Run], None]:
    """``register(name, run)``: another package's command, registered through an entry point."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: [e for e in entries if e.group == group])

    def add(name: str, run: Run) -> None:
        command = SimpleNamespace(add_parser=lambda subparsers: subparsers.add_parser(name, help="another's"), run=run)
        monkeypatch.setitem(sys.modules, f"plugin_{name}", command)
        entries.append(EntryPoint(name, f"plugin_{name}", cli.ENTRY_POINT_GROUP))

    return add


def python(*arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_a_registered_command_gives_the_exit_status_and_warnings_and_errors_reach_stderr_in_one_line(
    register: Callable[[str, Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        logging.getLogger("sapnet.part").info("a detail")
        logging.getLogger("sapnet.part").warning("mind this")
        return 7

    def fail(args: argparse.Namespace) -> int:
        raise BackendError("no such thing;\n  install it")

    register("greet", run)
    assert cli.main(["greet"]) == 7
    assert capsys.readouterr().err == "sapnet: warning: mind this\n"
    cli.main(["-v", "greet"])
    assert capsys.readouterr().err == "sapnet: info: a detail\nsapnet: warning: mind this\n"
    register("fail", fail)
    assert cli.main(["fail"]) == 2
    assert capsys.readouterr() == ("", "sapnet: error: no such thing; install it\n")


def test_sigterm_unwinds(register: Callable[[str, Run], None]) -> None:
    cleaned = []

    def run(args: argparse.Namespace) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)
        return 0

    register("greet", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        cli.main(["greet"])
    assert stop.value.code == 143
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("arguments", [[], ["--frames", "3", "in.mp4"], ["--help"], ["-v"]])
def test_a_command_that_cannot_be_imported_is_listed_and_says_why_whatever_follows(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("demo", "package_without_ros.demo", cli.ENTRY_POINT_GROUP)
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: [entry])
    said = f"unavailable: No module named 'package_without_ros'; {cli.ROS_INSTALL}"
    assert cli.main(["demo", *arguments]) == 2
    assert capsys.readouterr().err == f"sapnet: error: demo is {said}\n"
    assert cli.main(["--help"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_examples_that_fits_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"examples:\n  sapnet {name}" in text
    assert [line for line in text.splitlines() if len(line) > 80] == []


WRONG_USAGE = [
    ("polish", "'polish'"),
    ("info --colour", "--colour"),
    ("info --js", "--js"),
    ("-x info", "-x"),
    ("bag nothing -o out", "nothing does not exist; give a rosbag2 folder, an .mcap or .db3 file, or a ROS 1"),
    ("bag drive -o out --topic /x", "has no image topic /x; it has: /cam/image_raw (sensor_msgs/msg/Image)"),
    ("bag drive -o drive", "drive exists already; name another output"),
    ("bag drive -o .", ". is no name for a recording; name a folder to create"),
    ("bag drive -o out --start 9", "drive is 0.161 s long; there is nothing to derain from 9 s on"),
    ("bag drive -o out --start -1", "expected seconds of at least 0, got '-1'"),
    ("bag drive -o out --quality 101", "expected a whole number from 1 to 100, got '101'"),
    ("bag drive -o out --stride 0", "expected a whole number of at least 1, got '0'"),
    ("compare drive drive --tolerance 256", "expected a whole number from 0 to 255, got '256'"),
    ("compare drive drive --topic /nothing", "neither recording has a topic '/nothing'"),
    ("bench --backend caffe", "caffe"),
    ("bench --backend torch:int8", "int8"),
    ("bench --backend torch:", "torch:"),
    ("bench --weights no_such_preset --backend torch", "no_such_preset"),
    ("bench --backend fake --onnx absent.onnx", "absent.onnx"),
    ("compile --ahead-of-time --shape 72x128 --target sm87", "got target 'sm87', expected portable, sm75"),
    ("compile --ahead-of-time --shape 72x128 --target sm75 --precision bf16", "no bf16 arithmetic; use fp16 or fp32"),
    ("compile --shape 72x128 -o x.engine", "-o writes one engine that is built --ahead-of-time"),
    ("compile --cache-dir cache", "one of the arguments --shape --list --clear"),
    ("compile --ahead-of-time --shape 72x128 --weights nothing.pth", "no such file"),
    ("fleet drive -o out", "a fleet needs Ray (import of ray halted; None in sys.modules); install it: run pip"),
    ("fleet drive -o out --cpus-per-worker 1.5", "expected a fraction such as 0.5, or a whole number, got '1.5'"),
    ("fleet drive -o out --workers 0", "expected a whole number of at least 1, got '0'"),
    ("derain missing.png -o out", "missing.png does not exist; check the path"),
    ("derain notes.txt -o out", "is neither an image nor a video by its name; expected a folder or .avi .bmp"),
    ("derain empty -o out", "empty holds no image or video; looked for .avi .bmp"),
    ("derain in -o out.png", "out.png names a file, which takes one image or one video; give a folder"),
    ("derain in/a.png clip.mp4 -o out.png", "out.png names a file, which takes one image or one video"),
    ("derain in/a.png -o out.mp4", "an image is written as an image and a video as a video"),
    ("derain clip.mp4 -o out.png", "an image is written as an image and a video as a video"),
    ("derain missing.png -o out.png", "missing.png does not exist; check the path"),
    ("derain in -o notes.txt", "notes.txt is a file of no known type; give a folder for the output"),
    ("derain in/a.png -o out", "in/a.png"),
    ("derain clip.mp4 -o out", "clip.mp4"),
    ("derain in/a.png -o in", "in/a.png is an input and would be overwritten"),
    ("derain in/a.png -o in/a.png --overwrite", "in/a.png is an input and would be overwritten"),
    ("derain in/a.png -o empty/../in --overwrite", "in/a.png is an input and would be overwritten"),
    ("derain in/a.png -o link --overwrite", "in/a.png is an input and would be overwritten"),
    ("derain in/a.png in/a.jpg -o out --masks", "would both be written to out/a_streak_mask.png"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_USAGE)
def test_wrong_usage_is_one_line_and_exit_status_2_and_writes_nothing(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path / "drive", drive(5))
    (tmp_path / "link").symlink_to("in")
    for name in ("in/a.png", "in/a.jpg", "clip.mp4", "notes.txt", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "ray", None)
    fake = ["--backend", "fake"] if words.startswith(("bag", "derain", "fleet")) else []
    assert cli.main([*words.split(), *fake]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sapnet")
    assert err.count("\n") == 1
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before or "needs Ray" in err


def test_python_m_sapnet_is_the_same_command() -> None:
    done = python("-m", "sapnet", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sapnet {sapnet.__version__}\n", "")


def test_help_starts_without_torch_and_openvino() -> None:
    """Also with the commands of entry points, which are imported to say whether they are available."""
    heavy = "{'torch', 'openvino'}"
    check = f"import sys; from sapnet.cli import main; main(['--help']); sys.exit(len({heavy} & {{*sys.modules}}))"
    assert python("-c", check).returncode == 0


def test_a_reader_that_has_left_is_no_fault(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = python("-m", "sapnet", "compile", "--list", "--json", f"--cache-dir={tmp_path}", stdout=pipe)
    assert (done.returncode, done.stderr) == (141, "")


def test_shapes_are_height_by_width() -> None:
    assert parse_shape("720x1280") == (720, 1280)
    assert parse_shape("16X17") == (16, 17)
    for text in ("", "720", "x1280", "720x1280x3", "-720x1280", "7.5x20"):
        with pytest.raises(argparse.ArgumentTypeError, match="height x width such as 720x1280"):
            parse_shape(text)


def test_the_network_arguments_reach_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[BackendSpec] = []
    create = derainer.create_backend
    monkeypatch.setattr(derainer, "create_backend", lambda name, spec: specs.append(spec) or create(name, spec))
    parser = argparse.ArgumentParser()
    add_network_arguments(parser)
    arguments = ["--backend", "fake", "--engine", "my.engine", "--device", "cuda:1", "--stages", "3"]
    derainer_from(parser.parse_args(arguments)).close()
    assert specs == [BackendSpec(engine="my.engine", device="cuda:1", stages=3)]


def test_a_build_is_told_every_few_seconds_and_at_once_for_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    tell = tell_builds()
    for height, seconds in ((48, 0.0), (48, 3.0), (48, 5.0), (48, 6.0), (96, 0.5)):
        tell(BuildStatus(EngineShape(height, 64), "building", 0.0, seconds))
    assert capsys.readouterr().err.splitlines() == [
        "sapnet: building the engine for 48x64: building, 0 s",
        "sapnet: building the engine for 48x64: building, 5 s",
        "sapnet: building the engine for 96x64: building, 0 s",
    ]


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert all(f"\n    {name} " in err for name in cli.COMMANDS)
