"""Runs what makes things on a thread of its own, some way ahead of what uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from threading import Condition, Thread
from typing import TypeVar

T = TypeVar("T")


def ahead(things: Generator[T, None, None], size: Callable[[T], int], limit: int) -> Generator[T, None, None]:
    """The same things in the same order, made while earlier ones are in use.

    size: bytes that a thing holds. limit: bytes made ahead; one thing goes beyond it at most.
    What ``things`` raises is raised here in its place. Closing this generator closes ``things`` and ends the thread.
    """
    made: deque[tuple[T, int]] = deque()
    change = Condition()
    failure: list[BaseException] = []
    held, done, stopped = 0, False, False

    def has_room() -> bool:
        return stopped or held < limit

    def make() -> None:
        nonlocal held, done
        try:
            with closing(things):
                for thing in things:
                    with change:
                        made.append((thing, size(thing)))
                        held += made[-1][1]
                        change.notify_all()
                        change.wait_for(has_room)
                        if stopped:
                            return
        except BaseException as err:
            failure.append(err)
        finally:
            with change:
                done = True
                change.notify_all()

    thread = Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            with change:
                change.wait_for(lambda: made or done)
                if not made:
                    break
                thing, bytes_held = made.popleft()
                held -= bytes_held
                change.notify_all()
            yield thing
    finally:
        with change:
            stopped = True
            change.notify_all()
        thread.join()
    if failure:
        raise failure[0]
