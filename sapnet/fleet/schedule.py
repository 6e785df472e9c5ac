"""What is to be done next, and when a recording is done or given up. Knows nothing of workers and clocks."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sapnet.bags.options import BagOptions
from sapnet.fleet.ledger import DONE, FAILED, Row, utc_now
from sapnet.fleet.plan import CHUNKS, Bag

PROBE, DERAIN, JOIN = "probe", "derain", "join"
# Seconds before what failed is tried again, doubled each time, so that storage that is away for a while may come back.
BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0
# Nodes that a task may outlive before it is suspected of taking them down.
MAX_NODES_LOST = 10


@dataclass(frozen=True)
class Task:
    """What one worker does at a time: look at a recording's length, derain it or a chunk of it, or join its chunks.

    output: of this task. chunk_s: length of chunks, for a probe. share: of the recording's work, 0 to 1.
    anew: leave what an attempt before has done.
    """

    kind: str
    bag: Bag
    output: Path
    options: BagOptions
    chunks: int = 1
    chunk_s: float = 0.0
    share: float = 1.0
    anew: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a task ended. error: why it failed, or empty. cuts: of a probe, where each chunk begins, in seconds.

    lost: the worker is gone. node_lost: and its node, so that it was not the task's fault.
    stopped: it was told to stop. seconds: of work.
    """

    error: str = ""
    lost: bool = False
    node_lost: bool = False
    stopped: bool = False
    frames: int = 0
    unreadable: int = 0
    messages: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    cuts: tuple[float, ...] = (0.0,)
    node: str = ""


@dataclass
class _Account:
    """What is known of a recording under way."""

    row: Row
    rank: int
    left: int = 1  # tasks before the last one
    ended: bool = False
    tries: dict[Path, int] = field(default_factory=dict)
    nodes_lost: dict[Path, int] = field(default_factory=dict)


class Schedule:
    """Tasks of many recordings: the largest first, so that at the end no worker is alone with a long one.

    chunk_s: length of chunks in seconds; 0 for whole recordings. tries: failures after which a recording is given up.
    Times are in seconds of any steady clock.
    """

    def __init__(self, bags: Sequence[Bag], options: BagOptions, chunk_s: float, tries: int) -> None:
        self._options = options
        self._chunk_s = chunk_s
        self._tries = tries
        self._accounts: dict[Bag, _Account] = {}
        self._ready: list[tuple[int, int, Task]] = []
        self._later: list[tuple[float, int, Task]] = []
        self._number = 0
        for rank, bag in enumerate(sorted(bags, key=lambda bag: -bag.size)):
            self._accounts[bag] = _Account(Row(str(bag.source), str(bag.output), "", bytes=bag.size), rank)
            probe = Task(PROBE, bag, bag.output, options, chunk_s=chunk_s, share=0.0)
            self._add(probe if chunk_s else Task(DERAIN, bag, bag.output, options))

    @property
    def is_done(self) -> bool:
        """Whether every recording is done or given up."""
        return all(account.ended for account in self._accounts.values())

    def take(self, now_s: float) -> Task | None:
        """The next task that is due, if there is one."""
        while self._later and self._later[0][0] <= now_s:
            self._add(heapq.heappop(self._later)[2])
        while self._ready:
            task = heapq.heappop(self._ready)[2]
            account = self._accounts[task.bag]
            if not account.ended:
                account.row.attempts = account.row.attempts or 1
                account.row.started = account.row.started or utc_now()
                return task
        return None

    def end(self, task: Task, outcome: Outcome, now_s: float) -> Row | None:
        """Take note of a task's end; the row of its recording where that is done or given up now."""
        account = self._accounts[task.bag]
        if account.ended:  # given up over another chunk
            return None
        account.row.node = outcome.node or account.row.node
        account.row.seconds = round(account.row.seconds + outcome.seconds, 3)
        if outcome.error:
            return self._failed(account, task, outcome, now_s)
        if task.kind == PROBE:
            self._cut(account, task.bag, outcome)
            return None
        if task.kind == DERAIN:
            _count(account.row, outcome)
            account.left -= 1
            if account.row.chunks > 1:
                if not account.left:
                    self._add(Task(JOIN, task.bag, task.bag.output, self._options, account.row.chunks, share=0.0))
                return None
        return _end(account, DONE)

    def _failed(self, account: _Account, task: Task, outcome: Outcome, now_s: float) -> Row | None:
        account.row.error = outcome.error
        counts = account.nodes_lost if outcome.node_lost else account.tries
        counts[task.output] = counts.get(task.output, 0) + 1
        if counts[task.output] >= (MAX_NODES_LOST if outcome.node_lost else self._tries):
            return _end(account, FAILED)
        account.row.attempts += 1
        if outcome.lost:
            self._add(task)
            return None
        wait_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (counts[task.output] - 1))
        self._number += 1
        # What the first attempt left may be what made the second one fail.
        again = replace(task, anew=counts[task.output] > 1)
        heapq.heappush(self._later, (now_s + wait_s, self._number, again))
        return None

    def _cut(self, account: _Account, bag: Bag, outcome: Outcome) -> None:
        """Put a recording's chunks in place of it, or leave it whole."""
        cuts, folder = outcome.cuts, bag.output.with_name(f"{bag.output.name}{CHUNKS}")
        account.row.chunks = account.left = len(cuts)
        for number, start_s in enumerate(cuts):
            last = number == len(cuts) - 1
            options = replace(
                self._options,
                start_s=start_s,
                duration_s=0.0 if last else self._chunk_s,
                # The first chunk has them as they come; they are no part of the others.
                latched=False,
            )
            self._add(
                Task(DERAIN, bag, folder / f"{number:06d}", options, len(cuts), share=1 / len(cuts))
                if len(cuts) > 1
                else Task(DERAIN, bag, bag.output, self._options)
            )

    def _add(self, task: Task) -> None:
        self._number += 1
        heapq.heappush(self._ready, (self._accounts[task.bag].rank, self._number, task))


def _count(row: Row, outcome: Outcome) -> None:
    row.frames += outcome.frames
    row.unreadable += outcome.unreadable
    row.messages += outcome.messages
    row.notes += [note for note in outcome.notes if note not in row.notes]


def _end(account: _Account, state: str) -> Row:
    account.ended = True
    account.row.state = state
    account.row.ended = utc_now()
    return account.row
