"""Two jobs in one worker: one on the device at a time, the rest side by side."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from workers.turns import ON_DEVICE, Turn, Turns


@contextmanager
def untimed(_name: str) -> Iterator[None]:
    yield


def test_a_second_job_reads_while_the_first_is_on_the_device_and_then_takes_its_turn() -> None:
    turns, read, ran = Turns(), threading.Event(), threading.Event()
    first, second = Turn(turns), Turn(turns)

    def other() -> None:
        stage = second.stages(untimed)
        with stage("volume"):
            read.set()
        with stage(ON_DEVICE):
            ran.set()

    thread = threading.Thread(target=other)
    with first.stages(untimed)(ON_DEVICE):
        thread.start()
        assert read.wait(10)
        assert not ran.wait(0.1)
        assert second.waited_s() > 0
    thread.join(10)
    assert ran.is_set()
    assert (first.waited_s() < second.waited_s(), turns.device.locked()) == (True, False)


def test_a_job_that_fails_on_the_device_gives_it_back() -> None:
    turns = Turns()
    try:
        with Turn(turns).stages(untimed)(ON_DEVICE):
            raise ValueError
    except ValueError:
        pass
    assert not turns.device.locked()


def test_a_job_that_is_tried_again_has_the_process_to_itself() -> None:
    turns, entered = Turns(), {name: threading.Event() for name in ("again", "next")}
    leave = threading.Event()

    def job(name: str, *, alone: bool) -> None:
        with Turn(turns).together(alone=alone):
            entered[name].set()
            leave.wait(10)

    again = threading.Thread(target=job, args=("again",), kwargs={"alone": True})
    following = threading.Thread(target=job, args=("next",), kwargs={"alone": False})
    with Turn(turns).together(alone=False):
        again.start()
        assert not entered["again"].wait(0.1)
        following.start()
        assert not entered["next"].wait(0.1)
    assert entered["again"].wait(10)
    assert not entered["next"].wait(0.1)
    leave.set()
    assert entered["next"].wait(10)
    again.join(10)
    following.join(10)
