"""``sapnet replay`` as its users run it: through a live node, on the fake backend unless it says otherwise."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from ctrl_c import heed_ctrl_c
from waiting import children_running, is_alive

from bag_builders import FRAME_NS, START_NS, TYPES, Sent, compressed, image, smooth_frames, wheel
from live import ROOT, TIMEOUT_S, wait_for
from replay_bags import LATCHED, SENSOR, contents, drive, record, talk

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from sapnet import Derainer
from sapnet.bags import open_recording
from sapnet.errors import SapnetError
from sapnet.media.sequence import RainySequence
from sapnet_ros.replay import command as replay
from sapnet_ros.replay.plan import make_plan
from sapnet_ros.starting import PROFILE_VARIABLES, find_profile

pytestmark = pytest.mark.once

SIZE = 48, 64


def run_replay(bag: Path, *words: str, backend: str = "fake") -> int:
    parser = ArgumentParser()
    replay.add_parser(parser.add_subparsers())
    return replay.run(parser.parse_args(["replay", str(bag), "--backend", backend, *words]))


def output_topics(namespace: str, *more: str) -> set[str]:
    names = ("derained/image", "derained/camera_info", "streak_mask/image", "rain_score", *more)
    return {f"{namespace}/{name}" for name in names}


def stamps(messages: Sequence[tuple[int, bytes]], type_name: str) -> list[int]:
    headers = [TYPES.deserialize_cdr(data, type_name).header for _, data in messages]
    return [header.stamp.sec * 10**9 + header.stamp.nanosec for header in headers]


def pixels(data: bytes) -> np.ndarray:
    message = TYPES.deserialize_cdr(data, "sensor_msgs/msg/Image")
    return message.data.reshape(message.height, message.width, -1)


def test_two_replays_of_a_raw_camera_are_equal_at_any_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Larger than Fast DDS's shared memory, for there a small message just before is lost at times, and sent again late.
    frames = smooth_frames(12, 360, 640)
    messages = [*drive(["/front"], frames), *talk("/talk", 5), wheel("/wheel", START_NS, 1.0)]
    bag = record(tmp_path / "bag", messages, {"/front/image_raw": SENSOR, "/talk": LATCHED})
    assert run_replay(bag, "-o", str(tmp_path / "a"), "--lockstep", "--json") == 0
    said = capsys.readouterr()
    assert run_replay(bag, "-o", str(tmp_path / "b"), "--lockstep", "--rate", "10", "--storage", "sqlite3") == 0
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first == second  # bytes, order and log times
    assert set(first) == output_topics("/front")
    derained, infos = first["/front/derained/image"], first["/front/derained/camera_info"]
    sent = [START_NS + number * FRAME_NS for number in range(len(frames))]
    assert stamps(derained, "sensor_msgs/msg/Image") == stamps(infos, "sensor_msgs/msg/CameraInfo") == sent
    assert [time_ns for time_ns, _ in derained] == [message.time_ns for message in messages[1:24:2]]
    for (_, data), frame in zip(derained, frames, strict=True):
        np.testing.assert_array_equal(pixels(data), frame)  # the fake backend's result
    # Each frame has the camera_info of its own stamp.
    focals = [TYPES.deserialize_cdr(data, "sensor_msgs/msg/CameraInfo").k[0] for _, data in infos]
    assert focals == [50.0 + number for number in range(len(frames))]
    summary = json.loads(said.out)
    (camera,) = summary["cameras"]
    assert camera["sent"] == camera["received"] == camera["derained"] == camera["recorded"] == len(frames)
    assert (camera["passed_through"], camera["dropped"], camera["lost_in_transport"]) == (0, 0, 0)
    assert camera["latency_ms"].keys() == {"p50", "p95", "p99"}
    assert (summary["network"]["backend"], summary["notes"], summary["lockstep"]) == ("fake", [], True)
    assert "/wheel (our_msgs/msg/Wheel)" in said.err
    assert {path.name for path in tmp_path.iterdir()} == {"bag", "a", "b"}


def test_two_replays_of_compressed_cameras_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of equal stamps, as of a stereo camera, with frames that no node can take, and another size among them."""
    messages = list(drive(["/left", "/right"], smooth_frames(8, *SIZE), jpeg=True, offset_ns=0))
    frames = [number for number, sent in enumerate(messages) if sent.topic.endswith("/compressed")]
    undecodable, cut, larger = frames[4], frames[7], frames[10]
    messages[undecodable] = messages[undecodable]._replace(data=messages[undecodable].data[:90] + bytes(2000))
    messages[cut] = messages[cut]._replace(data=messages[cut].data[:14])
    grown = compressed(messages[larger].topic, START_NS + 5 * FRAME_NS, smooth_frames(1, 64, 80)[0])
    messages[larger] = grown
    bag = record(tmp_path / "bag", messages)
    summaries = []
    for name, rate in (("a", "1"), ("b", "10")):
        words = ["--lockstep", "--rate", rate, "--status", "--json"]
        assert run_replay(bag, "-o", str(tmp_path / name), *words) == 0
        summaries.append(json.loads(capsys.readouterr().out))
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert set(first) == output_topics("/left", "frame_status") | output_topics("/right", "frame_status")
    for topic in first:
        if not topic.endswith("frame_status"):  # which tells latencies
            # Bytes, order and log times.
            assert first[topic] == second[topic]
    for summary in summaries:
        left, right = summary["cameras"]
        assert (left["sent"], left["derained"], left["reasons"]["dropped"]) == (8, 7, {"invalid": 1})
        assert (right["sent"], right["derained"], right["dropped"]) == (8, 7, 0)
    sizes = {pixels(data).shape[:2] for _, data in first["/left/derained/image"]}
    assert sizes == {SIZE, (64, 80)}


def test_lockstep_starts_where_no_camera_info_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a driver that sends it once: the frames have it all the same."""
    once, *messages = drive(["/front"], smooth_frames(6, *SIZE))
    bag = record(tmp_path / "bag", [once, *messages[::2]])
    assert run_replay(bag, "-o", str(tmp_path / "out"), "--lockstep", "--start", "0.15", "--json") == 0
    (camera,) = json.loads(capsys.readouterr().out)["cameras"]
    recorded = contents(tmp_path / "out")
    assert {topic: len(found) for topic, found in recorded.items()} == dict.fromkeys(output_topics("/front"), 2)
    assert camera["sent"] == camera["derained"] == 2


def test_at_a_fixed_rate_every_frame_that_came_out_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More frames than wait for the recorder, 50 a second, of a recording whose time begins at 0."""
    messages = list(drive(["/front"], smooth_frames(150, *SIZE)))
    bag = record(tmp_path / "bag", [sent._replace(time_ns=sent.time_ns - messages[0].time_ns) for sent in messages])
    assert run_replay(bag, "-o", str(tmp_path / "out"), "--rate", "2", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    (camera,) = summary["cameras"]
    assert camera["sent"] == camera["received"] == 150
    published = camera["derained"] + camera["passed_through"]
    recorded = {topic: len(found) for topic, found in contents(tmp_path / "out").items()}
    # There may be less camera_info: the node publishes none before it has received one.
    assert recorded["/front/derained/image"] == recorded["/front/streak_mask/image"] == published
    assert recorded["/front/rain_score"] == camera["derained"]
    assert (camera["recorded"], summary["notes"]) == (published, [])


def test_the_networks_results_are_those_of_the_derainer(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    frames = [frame.rainy for frame in RainySequence(None, "heavy", 5, 96)]
    bag = record(tmp_path / "bag", list(drive(["/front"], frames)))
    assert run_replay(bag, "-o", str(tmp_path / "out"), "--lockstep", "--stages", "1", backend="openvino") == 0
    recorded = contents(tmp_path / "out")
    assert set(recorded) == output_topics("/front")
    derainer = Derainer(backend="openvino", stages=1)
    for (_, data), frame in zip(recorded["/front/derained/image"], frames, strict=True):
        (expected,) = derainer([frame])
        np.testing.assert_array_equal(pixels(data), expected.image)
        assert (expected.image != frame).any()  # else nothing was derained


@pytest.mark.parametrize("module", ["derain_node", "replay.recorder"])
def test_a_process_that_dies_leaves_nothing_behind(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(psutil.Process().children())
    bag = record(tmp_path / "bag", list(drive(["/front"], smooth_frames(1000, *SIZE))))

    def kill() -> None:
        running = wait_for(lambda: children_running(rf".*\.{re.escape(module)} ", psutil.Process()), module)
        time.sleep(1.0)  # the replay has begun
        running[0].kill()

    with ThreadPoolExecutor() as threads:
        killed = threads.submit(kill)
        assert run_replay(bag, "-o", str(tmp_path / "out")) == 1
        killed.result()
    assert "ended with exit status -9" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"bag"}
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ("enabled: false", 'none of 3 frames was derained: [{"passed_through": {"disabled": 3}'),
        ("fake: {build_s: 0.1, mode: build_fails}", "derain_node cannot derain: "),
    ],
    ids=["disabled", "no engine"],
)
def test_nothing_derained_is_a_failure(
    params: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = record(tmp_path / "bag", list(drive(["/front"], smooth_frames(3, *SIZE))))
    file = tmp_path / "params.yaml"
    file.write_text(f"/**: {{ros__parameters: {{cache_dir: {tmp_path / 'cache'}, {params}}}}}\n")
    assert run_replay(bag, "--params-file", str(file), "--lockstep") == 1
    assert line in capsys.readouterr().err


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Interrupts this process, also where it is a shell's background job, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_loop_ends_with_ctrl_c_and_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = record(tmp_path / "bag", list(drive(["/front"], smooth_frames(5, *SIZE))))

    def interrupt() -> None:
        (log,) = wait_for(lambda: list(tmp_path.glob(".out_*/received.log")), "the recorder")

        def all_in_two_rounds() -> bool:
            """A frame may be overtaken: then there are more rounds."""
            derained = [line.split()[1] for line in log.read_text().splitlines() if line.endswith(" derained")]
            return len(derained) > 8 and len(set(derained)) == 5

        wait_for(all_in_two_rounds, "the second round")
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor() as threads:
        threads.submit(interrupt)
        assert run_replay(bag, "-o", str(tmp_path / "out"), "--loop", "--rate", "2", "--json") == 0
    (camera,) = json.loads(capsys.readouterr().out)["cameras"]
    derained = contents(tmp_path / "out")["/front/derained/image"]
    assert len(derained) == camera["derained"] > 8
    assert len(set(stamps(derained, "sensor_msgs/msg/Image"))) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_with_nothing_left(number: signal.Signals, tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", list(drive(["/front"], smooth_frames(5, *SIZE))))
    command = [sys.executable, "-m", "sapnet", "replay", str(bag), "-o", str(tmp_path / "out"), "--rate", "0.001"]
    command += ["--backend", "fake"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c) as process:
        wait_for(lambda: any(log.stat().st_size for log in tmp_path.glob(".out_*/received.log")), "a derained frame")
        started = psutil.Process(process.pid).children()
        node, recorder = (one.environ() for one in started)
        # As the launch files do: to the node alone.
        assert node[PROFILE_VARIABLES[0]] == str(find_profile())
        assert PROFILE_VARIABLES[0] not in recorder
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == (-number if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: not any(map(is_alive, started)), "the end of the processes")
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_a_recording_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A full disk, stood in for by a limit on the size of files; sqlite3 has exceptions of its own."""
    program = (
        "import os, resource, signal, sys; from pathlib import Path; from sapnet.bags.types import described_topic\n"
        "from sapnet.errors import BagError; from sapnet_ros.replay.recorder import new_bag\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "for storage in ('mcap', 'sqlite3'):\n"
        "    try:\n"
        "        with new_bag(Path(sys.argv[1]), storage) as bag:\n"
        "            connection = bag.add(described_topic('/a', 'std_msgs/msg/String', ()))\n"
        "            for number in range(100): bag.write(connection, number, os.urandom(50_000))\n"
        "    except BagError as err: print(err)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count(f"{tmp_path / 'out'} cannot be written (") == 2
    assert list(tmp_path.iterdir()) == []


def frame(topic: str) -> Sent:
    return image(topic, START_NS, smooth_frames(1, *SIZE)[0])


@pytest.mark.parametrize(
    ("messages", "words", "line"),
    [
        (list(talk("/talk", 3)), [], "has no color camera; name an image topic with --topic"),
        ([frame("/a/image_raw")], ["--topic", "/b/image_raw"], "no image topic /b/image_raw"),
        (
            [frame("/a/image_raw"), compressed("/b/image_raw/compressed", START_NS, smooth_frames(1, *SIZE)[0])],
            [],
            r"raw and compressed cameras.*/a/image_raw \(raw\), /b/image_raw/compressed \(compressed\).*--topic",
        ),
        ([image("/a/image_raw", START_NS, smooth_frames(1, 8, 8)[0])], [], "no frame of at least 16x16"),
        ([frame("/a/image_raw")], ["--params-file", "missing.yaml"], "missing.yaml is not a file"),
    ],
    ids=["no camera", "no such topic", "mixed transports", "small frames", "no file"],
)
def test_input_of_no_use_is_refused(messages: list[Sent], words: list[str], line: str, tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", messages)
    with pytest.raises(SapnetError, match=line):  # exit status 2
        run_replay(bag, *words)


def test_outputs_that_must_stay_are_not_replaced(tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", [frame("/a/image_raw")])
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    for words, line in (
        (["-o", str(full)], "exists already; .*--overwrite"),
        (["-o", str(full), "--overwrite"], "is no recording"),
        (["-o", str(bag), "--overwrite"], "is the input, or holds it"),
    ):
        with pytest.raises(SapnetError, match=line):
            run_replay(bag, *words)
    assert (full / "mine.txt").is_file()


def test_the_plan_names_cameras_and_topics(tmp_path: Path) -> None:
    topics = ("/sensors/front/image_raw", "/sensors/rear/color", "/sensors/rear/other", "/2nd/image_raw")
    bag = record(tmp_path / "bag", [frame(topic) for topic in topics])
    with open_recording(bag) as source:
        plan = make_plan(source)
        alone = make_plan(source, ["/2nd/image_raw"])
    assert plan.parameters == {
        "image_transport": "raw",
        "use_sim_time": True,
        "cameras": ["sensors_front", "sensors_rear_color", "sensors_rear_other", "camera_2nd"],
    }
    assert plan.sizes == ("48x64",)
    rules = dict(plan.remaps)
    assert rules["sensors_front/image"] == "/sensors/front/image_raw"
    assert rules["sensors_front/derained/image"] == "/sensors/front/derained/image"
    assert rules["sensors_rear_color/streak_mask/image"] == "/sensors/rear/color/streak_mask/image"
    assert "cameras" not in alone.parameters
    assert dict(alone.remaps)["image"] == "/2nd/image_raw"
