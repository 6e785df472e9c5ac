"""How often a backend that hangs is started anew."""

from __future__ import annotations

from sapnet_ros.loader import FIRST_PAUSE_S, FORGIVEN_AFTER_S, MAX_LEFT_BEHIND, MAX_RESTARTS, Restarts


class StubThread:
    """As much of a thread as counts here."""

    def __init__(self, alive: bool) -> None:
        self.alive = alive

    def is_alive(self) -> bool:
        return self.alive


class Backend:
    """One that hangs. ``alive``: whether its calls never return."""

    def __init__(self, alive: bool) -> None:
        self.now_s = 1000.0
        self.restarts = Restarts(lambda: self.now_s)
        self.alive = alive
        self.threads: list[StubThread] = []

    def hang(self) -> tuple[bool, str]:
        self.threads.append(StubThread(self.alive))
        self.restarts.leave_behind(self.threads[-1])  # type: ignore[arg-type]
        return self.restarts.plan("it hangs")

    def work(self, seconds: float) -> None:
        self.restarts.note_working()
        self.now_s += seconds
        self.restarts.note_working()


def test_each_pause_is_twice_the_one_before_until_the_end() -> None:
    backend = Backend(alive=False)
    for number in range(MAX_RESTARTS):
        assert backend.hang() == (
            True,
            f"it hangs; restarting it in {FIRST_PAUSE_S * 2**number:g} s (try {number + 1} of {MAX_RESTARTS})",
        )
        assert backend.restarts.pause_s == FIRST_PAUSE_S * 2**number
    assert backend.hang() == (False, "it hangs, after 5 restarts: given up; clean up and configure to try again")
    assert backend.restarts.count == MAX_RESTARTS


def test_restarts_are_forgiven_after_a_good_while() -> None:
    backend = Backend(alive=False)
    for _ in range(10 * MAX_RESTARTS):
        assert backend.hang()[0]
        backend.work(FORGIVEN_AFTER_S + 1)
        assert not backend.restarts.trying


def test_calls_that_never_return_add_up_however_well_it_went_between() -> None:
    backend = Backend(alive=True)
    for _ in range(MAX_LEFT_BEHIND - 1):
        assert backend.hang()[0]
        backend.work(FORGIVEN_AFTER_S + 1)
    assert backend.hang() == (
        False,
        "it hangs, 5 calls have never returned: given up; clean up and configure to try again",
    )
