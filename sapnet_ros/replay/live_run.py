"""derain_node, a player and a recorder as processes over DDS: runs them to the end, or says which failed and why."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sapnet.commands.common import progress_bar
from sapnet.errors import SapnetError
from sapnet_ros.replay.waiting import EXIT_INPUT

if TYPE_CHECKING:
    from rich.progress import Progress

NODE, PLAYER, RECORDER = "derain_node", "player", "recorder"

# The upper range whose ports Linux gives to nobody else; robots keep to the lower one.
DOMAINS = range(215, 233)
# A build of an engine may take minutes, and says so meanwhile.
READY_TIMEOUT_S = 600.0
POLL_S = 0.1
# Diagnostics come every second.
DIAGNOSTICS_TIMEOUT_S = 5.0
TAIL_LINES = 12
STOP_TIMEOUT_S = 10.0

_ERROR = 2


class RunError(SapnetError):
    """A process ended early, or nothing was derained."""


@contextmanager
def free_domain() -> Iterator[int]:
    """A ROS domain that no other run on this machine uses, kept for the time of the block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        for domain in DOMAINS:
            try:
                # An abstract address: gone with this process, whatever ends it.
                claim.bind(f"\0sapnet_demo_domain_{domain}")
            except OSError:
                continue
            yield domain
            return
    raise RunError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by other demos and replays; end one")


def watch_line(domain: int, topic: str) -> str:
    """What to type to see a topic's rate while a run in this domain lasts."""
    return f"ROS_DOMAIN_ID={domain} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ros2 topic hz {topic}"


def environment(domain: int, folder: Path) -> dict[str, str]:
    """Of the processes: on this host alone, in a domain of their own."""
    package = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name != "ROS_DISCOVERY_SERVER"}
    return inherited | {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(folder / "ros"),
        "RCUTILS_COLORIZED_OUTPUT": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": path,
    }


class Processes:
    """Python modules run as processes, by name; leaving the ``with`` block ends them all.

    folder: where their output goes, as ``<name>.log``. environment: of all of them.
    They stand in sessions of their own, so that Ctrl-C reaches them only through us, in order.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def start(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """Run ``python -m module arguments``."""
        command = [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), module, *arguments]
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def exit_code(self, name: str) -> int | None:
        """None while it runs."""
        return self._running[name].poll()

    def last_lines(self, name: str) -> str:
        """The end of what it wrote to stdout and stderr."""
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def stop(self, name: str) -> int:
        """Interrupt it, as Ctrl-C would; kill it where that does not help. Returns its exit status."""
        process = self._running[name]
        process.send_signal(signal.SIGINT)
        return _end(process)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for process in self._running.values():
                process.send_signal(signal.SIGINT)
            for process in self._running.values():
                _end(process)
        finally:
            # Also after another Ctrl-C, which breaks off the waiting above.
            for process in self._running.values():
                process.kill()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class LiveRun:
    """One run in ``folder``, which is for it alone. The files are for the player and the recorder to write.

    cameras: the names of derain_node's cameras in its diagnostics.
    """

    def __init__(self, folder: Path, domain: int, cameras: Sequence[str] = ("camera",)) -> None:
        self.bag = folder / "bag"
        self.sent = folder / "sent.log"
        self.received = folder / "received.log"
        self.diagnostics = folder / "diagnostics.json"
        self._cameras = cameras
        self._read_bytes, self._statuses = 0, 0
        self._processes = Processes(folder, environment(domain, folder))

    def perform(
        self,
        commands: Mapping[str, tuple[str, Sequence[str]]],
        on_progress: Callable[[int, str], None],
        endless: bool = False,
    ) -> None:
        """Run to the end of the player.

        commands: module and arguments of NODE, PLAYER and RECORDER. on_progress: gets frames that came back, and what
        is going on. endless: Ctrl-C ends the player, and is no error. Raises SapnetError.
        """
        with self._processes:
            for name in (NODE, RECORDER, PLAYER):
                self._processes.start(name, *commands[name])
            try:
                code = self._watch(on_progress)
            except KeyboardInterrupt:
                if not endless:
                    raise
                code = self._processes.stop(PLAYER)
            if code == EXIT_INPUT:
                raise SapnetError(self._processes.last_lines(PLAYER))
            self._check_running()
            if code:
                raise RunError(self._describe(PLAYER, code) + "\n" + self._describe(NODE, None))
            self._wait_for_final_diagnostics()
            on_progress(*self._progress())
            if code := self._processes.stop(RECORDER):
                raise RunError(self._describe(RECORDER, code))

    def status(self, name: str) -> dict[str, Any]:
        """What derain_node said last of a camera, or of its backend."""
        statuses = self._read_diagnostics().get("statuses", {})
        return next((status for key, status in statuses.items() if key.endswith(f"/{NODE}: {name}")), {})

    def said_by_player(self) -> str:
        """The last lines that the player wrote."""
        return self._processes.last_lines(PLAYER)

    def _watch(self, on_progress: Callable[[int, str], None]) -> int:
        """The exit status of the player, once it ends."""
        while (code := self._processes.exit_code(PLAYER)) is None:
            self._check_running()
            on_progress(*self._progress())
            time.sleep(POLL_S)
        return code

    def _check_running(self) -> None:
        for name in (NODE, RECORDER):
            if (code := self._processes.exit_code(name)) is not None:
                raise RunError(self._describe(name, code))
        backend = self.status("backend")
        if backend.get("level") == _ERROR and not self._returned():
            raise RunError(f"derain_node cannot derain: {backend['message']}")

    def _progress(self) -> tuple[int, str]:
        if returned := self._returned():
            return returned, "deraining"
        return 0, self.status("backend").get("message") or "starting"

    def _wait_for_final_diagnostics(self) -> None:
        """Until derain_node's figures include the last frame, and the recorder has it, unless it missed some.

        However long a frame takes, derain_node says meanwhile that it is in flight.
        """
        ended_ns = heard_ns = time.monotonic_ns()
        complete = False
        while time.monotonic_ns() < heard_ns + DIAGNOSTICS_TIMEOUT_S * 1e9:
            self._check_running()
            figures = [self.status(camera).get("values", {}) for camera in self._cameras]
            told_ns = self._read_diagnostics().get("steady_ns", 0)
            if not complete:
                heard_ns = max(heard_ns, told_ns)
                complete = told_ns > ended_ns and all(values.get("in_flight") == "0" for values in figures)
            out = sum(int(values.get("derained", 0)) + int(values.get("passed_through", 0)) for values in figures)
            if complete and self._returned() >= out:
                return
            time.sleep(POLL_S)
        if not complete:
            raise RunError(f"derain_node has sent no diagnostics for {DIAGNOSTICS_TIMEOUT_S:g} s")

    def _returned(self) -> int:
        """Frames whose status the recorder has noted; what was counted once is not read again."""
        if self.received.exists():
            with self.received.open("rb") as log:
                log.seek(self._read_bytes)
                lines = log.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            self._read_bytes += len(lines)
            self._statuses += lines.count(b"frame_status ")
        return self._statuses

    def _read_diagnostics(self) -> dict[str, Any]:
        if not self.diagnostics.exists():
            return {}
        diagnostics: dict[str, Any] = json.loads(self.diagnostics.read_text())
        return diagnostics

    def _describe(self, name: str, code: int | None) -> str:
        happened = "is still running" if code is None else f"ended with exit status {code}"
        return f"{name} {happened}; its last lines:\n{self._processes.last_lines(name) or '(none)'}"


def table(path: Path) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in path.read_text().splitlines()]


def say_reasons(camera: Mapping[str, str]) -> list[str]:
    """``2 dropped (overload)`` for each reason that derain_node gives in a camera's diagnostics."""
    return [
        f"{count} {fate.replace('_', ' ')} ({name.removeprefix(fate + '_')})"
        for fate in ("passed_through", "dropped")
        for name, count in camera.items()
        if name.startswith(fate + "_")
    ]


def parent_of(output: Path) -> Path:
    """The folder that the output stands in, made if missing. Raises SapnetError."""
    if output.exists() and not output.is_dir():
        raise SapnetError(f"{output} is a file; give a folder for the output")
    parent = output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise SapnetError(f"{parent} cannot be made ({err.strerror}); give another output") from err
    return parent


def run_bar() -> Progress:
    """A progress bar that also shows that something goes on while nothing is counted."""
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return progress_bar(*columns)
