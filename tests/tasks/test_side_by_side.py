"""Stages that need nothing of each other: they run at the same time, and faults are heard."""

from __future__ import annotations

import subprocess
import sys
import time
from contextvars import ContextVar
from threading import Barrier, current_thread

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from deconstruct.artifacts import Artifact
from deconstruct.common.threads import import_before_threads, one_quiet_thread
from tasks.stage import side_by_side

WHERE: ContextVar[str] = ContextVar("where", default="nowhere")


def test_they_run_at_the_same_time_in_this_context_and_come_back_in_their_order() -> None:
    meeting = Barrier(3, timeout=20)
    WHERE.set("here")

    def work(number: int) -> Artifact:
        meeting.wait()  # broken, unless all three are there
        return (number, WHERE.get(), current_thread().name)  # type: ignore[return-value]

    found = side_by_side(*(lambda n=n: work(n) for n in range(3)))
    assert [(n, where) for n, where, _ in found] == [(n, "here") for n in range(3)]  # type: ignore[misc]
    assert found[0][2] == current_thread().name  # type: ignore[index]


def test_the_first_fault_is_raised_once_all_have_ended() -> None:
    ended = []

    def work(number: int) -> Artifact:
        time.sleep(0.05 * (3 - number))
        ended.append(number)
        if number:
            raise ValueError(str(number))
        return None  # type: ignore[return-value]

    with pytest.raises(ValueError, match="1"):
        side_by_side(*(lambda n=n: work(n) for n in range(3)))
    assert sorted(ended) == [0, 1, 2]


INTERRUPTED = """
import os, signal, threading, time
from tasks.stage import side_by_side
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    side_by_side(lambda: time.sleep(60), lambda: time.sleep(60))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_an_interrupt_waits_for_nobody() -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "interrupted\n"
    assert time.monotonic() - started < 30


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_limits_of_stages_that_overlap_hold_until_the_last_has_ended() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    import_before_threads()
    before, inside = blas_threads(), []

    def work() -> Artifact:
        with one_quiet_thread():
            inside.append(blas_threads())
        inside.append(blas_threads())  # others are in theirs
        return None  # type: ignore[return-value]

    side_by_side(work, work, work)
    assert inside == [{1}] * 6
    assert blas_threads() == before
