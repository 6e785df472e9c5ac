"""Workers as actors of Ray, here or on a cluster: made, given tasks, and replaced when they die."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sapnet
from sapnet.errors import SapnetError, first_line
from sapnet.fleet.connection import load_ray
from sapnet.fleet.schedule import Outcome, Task
from sapnet.fleet.worker import Hello, Worker

# How long workers may take to end what they are at, when the run is broken off.
_GRACE_S = 15.0
# Between questions to Ray after a worker that does not answer.
_ASK_EVERY_S = 0.5
# Workers in a row that may die before they have said that they can work.
_MAX_STILLBORN = 3

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Member:
    """A worker. call: what it is at: its start, or ``task``. asked: its answer to how far it is, under way.

    lost: why it does not answer any more; ``call`` then waits for word of what became of it, asked for at ``asked_s``.
    """

    actor: Any
    call: Any
    task: Task | None = None
    hello: Hello | None = None
    asked: Any = None
    progress: float = 0.0
    lost: Exception | None = None
    asked_s: float = 0.0


class _Actor(Worker):
    """A worker with a process of its own, on a node of Ray's."""

    def begin(self, marker: Path, version: str) -> Hello:
        """Load the network, as ``start`` does."""
        # Read by what torch brings for its threads, when it is loaded.
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        return self.start(marker, version, load_ray().get_runtime_context().get_node_id())


class RayPool:
    """Workers on the Ray that this process is connected to.

    size: how many; 0 for as many as there is room for. cpus, gpus: each one's share. network: arguments of Derainer.
    marker: a file of the output folder. Raises SapnetError where no node has room for a worker.
    """

    def __init__(self, size: int, cpus: float, gpus: float, network: Mapping[str, Any], marker: Path) -> None:
        self._ray = ray = load_ray()
        self._marker = marker
        self.size = size or _room(ray.nodes(), cpus, gpus)
        if not any(_fits(node, cpus, gpus) for node in ray.nodes()):
            raise SapnetError(f"no node has {cpus:g} CPUs and {gpus:g} GPUs, as a worker needs; ask for less")
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_concurrency=3)(_Actor)
        self._arguments = dict(network), max(1, int(cpus))
        self._members = [self._hire() for _ in range(self.size)]
        self._stillborn = 0

    @property
    def idle(self) -> int:
        """Workers that wait for a task."""
        return sum(_is_idle(member) for member in self._members)

    @property
    def working(self) -> int:
        """Workers that have said that they can work."""
        return sum(member.hello is not None and member.lost is None for member in self._members)

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker."""
        member = next(member for member in self._members if _is_idle(member))
        member.task, member.progress, member.asked = task, 0.0, None
        member.call = member.actor.work.remote(task)

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome]]:
        """The tasks that have ended, waited for so long. Raises SapnetError where no worker can be had."""
        for member in self._members:
            if member.lost is not None and member.call is None and time.monotonic() - member.asked_s > _ASK_EVERY_S:
                member.call, member.asked_s = member.actor.progress.remote(), time.monotonic()
        busy = {member.call: member for member in self._members if member.call is not None}
        if not busy:
            time.sleep(timeout_s)
            return []
        ready, _ = self._ray.wait(list(busy), num_returns=1, timeout=timeout_s)
        if ready:  # and what else there is by now
            ready, _ = self._ray.wait(list(busy), num_returns=len(busy), timeout=0)
        return [ended for call in ready if (ended := self._settle(busy[call])) is not None]

    def progress(self) -> dict[Task, float]:
        """How much of each task under way was done, 0 to 1, when its worker was last heard of."""
        asked = [member.asked for member in self._members if member.asked is not None]
        ready = set(self._ray.wait(asked, num_returns=len(asked), timeout=0)[0]) if asked else set()
        for member in self._members:
            if member.task is None or member.lost is not None:
                continue
            if member.asked in ready:
                try:
                    member.progress = self._ray.get(member.asked)
                except self._ray.exceptions.RayError:  # its task ends with it
                    continue
                member.asked = None
            if member.asked is None:
                member.asked = member.actor.progress.remote()
        return {member.task: member.progress for member in self._members if member.task is not None}

    def close(self) -> None:
        """End all workers, those that have a task in good order."""
        busy = [member for member in self._members if member.task is not None and member.lost is None]
        for member in busy:
            member.actor.stop.remote()
        if busy:
            self._ray.wait([member.call for member in busy], num_returns=len(busy), timeout=_GRACE_S)
        for member in self._members:
            self._ray.kill(member.actor)
        self._members = []

    def _hire(self) -> _Member:
        actor = self._kind.remote(*self._arguments)
        return _Member(actor, actor.begin.remote(self._marker, sapnet.__version__))

    def _settle(self, member: _Member) -> tuple[Task, Outcome] | None:
        """Take note that a worker has started, ended its task or died; the task with its outcome, if it had one."""
        try:
            result = self._ray.get(member.call)
        except self._ray.exceptions.ActorUnavailableError as err:
            # Dead, on a node that is dead, or out of reach: Ray will know soon, and until then it may be at work.
            member.lost, member.call = err, None
            return None
        except self._ray.exceptions.RayError as err:
            return self._replace(member, err)
        if member.lost is not None:  # it is back, without what it was asked for
            return self._replace(member, member.lost)
        task = member.task
        member.call = member.task = None
        if isinstance(result, Hello):
            self._welcome(member, result)
            return None
        assert task is not None
        assert member.hello is not None
        return task, replace(result, node=member.hello.node)

    def _welcome(self, member: _Member, hello: Hello) -> None:
        if not hello.error:
            member.hello = hello
            self._stillborn = 0
            return
        self._members.remove(member)
        self._ray.kill(member.actor)
        if not self._members:
            raise SapnetError(f"no worker can work: {hello.error}")
        log.warning("a worker less, %s cannot work: %s", hello.node, hello.error)

    def _replace(self, member: _Member, err: Exception) -> tuple[Task, Outcome] | None:
        """Put a new worker in place of one that is lost; the task that it had with its outcome."""
        self._ray.kill(member.actor)
        self._members.remove(member)
        self._members.append(self._hire())
        if member.hello is None:
            self._stillborn += 1
            if self._stillborn >= _MAX_STILLBORN + self.size:
                raise SapnetError(f"workers die at their start: {first_line(err)}") from err
            return None
        node = member.hello.node
        said = f"the worker on {node} died ({type(err).__name__}: {first_line(err)})"
        log.warning("%s", said)
        outcome = Outcome(said, lost=True, node_lost=self._has_lost_node(member), node=node)
        return None if member.task is None else (member.task, outcome)

    def _has_lost_node(self, member: _Member) -> bool:
        node_id = member.hello.node_id if member.hello else ""
        return any(node["NodeID"] == node_id and not node["Alive"] for node in self._ray.nodes())


def _is_idle(member: _Member) -> bool:
    return member.hello is not None and member.task is None and member.lost is None


def _room(nodes: list[Mapping[str, Any]], cpus: float, gpus: float) -> int:
    """How many workers fit on the nodes; at least one, so that where none does it is said."""
    counts = []
    for node in nodes:
        if node["Alive"]:
            by_gpu = [node["Resources"].get("GPU", 0) // gpus] if gpus else []
            by_cpu = [node["Resources"].get("CPU", 0) // cpus] if cpus else []
            counts.append(int(min([*by_cpu, *by_gpu])))
    return max(1, sum(counts))


def _fits(node: Mapping[str, Any], cpus: float, gpus: float) -> bool:
    has = node["Resources"]
    return bool(node["Alive"] and has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus)
