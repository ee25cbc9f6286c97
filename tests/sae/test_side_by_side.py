"""The order in which members of a sweep step: bounded memory, no deadlock, errors come out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from weakref import finalize

import pytest
import torch

from deconstruct.sae.training.checkpoint import LogRow
from deconstruct.sae.training.side_by_side import WINDOW, Batch, SideBySide


@dataclass
class Stepping:
    """Stands for a member: notes what it was given, and how many threads it had."""

    steps: int
    seconds: float = 0.0
    fails_at: int | None = None
    step: int = 0
    seen: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    def train(self, z: torch.Tensor, target: torch.Tensor | None) -> LogRow | None:
        assert target is None
        if self.step == self.fails_at:
            raise ArithmeticError("this member")
        self.seen.append(int(z))
        self.threads.append(torch.get_num_threads())
        time.sleep(self.seconds)
        self.step += 1
        return None


class Source:
    """Batches that are their own step number; counts those that are alive."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.alive = self.most = 0

    def read(self, step: int) -> Batch:
        self.asked.append(step)
        self.alive += 1
        self.most = max(self.most, self.alive)
        z = torch.tensor(step)
        finalize(z, self._gone)
        return Batch(z, None)

    def _gone(self) -> None:
        self.alive -= 1


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def run(members: list[Stepping], at_once: int = 99) -> Source:
    source, told = Source(), []
    ready = sum(member.step for member in members)
    SideBySide(members, source.read, told.append, at_once).run()
    assert len(told) == sum(member.steps for member in members) - ready
    return source


def test_each_member_gets_its_batches_in_order(threads: int) -> None:
    members = [Stepping(9), Stepping(9, 0.002), Stepping(4), Stepping(12, step=3), Stepping(0)]
    source = run(members)
    assert [member.seen for member in members] == [
        list(range(9)), list(range(9)), list(range(4)), list(range(3, 12)), []
    ]  # fmt: skip
    assert source.asked == list(range(12))
    assert source.most <= WINDOW + 1  # one more may be passed on still
    assert torch.get_num_threads() == threads
    for member in members:
        assert all(1 <= n <= threads for n in member.threads)


def test_a_slow_member_does_not_make_others_hold_batches(threads: int) -> None:
    source = run([Stepping(40), Stepping(40), Stepping(12, 0.004)])
    assert source.most <= WINDOW + 1
    assert source.asked == list(range(40))


def test_members_that_resume_far_apart_wait_for_each_other(threads: int) -> None:
    late, early = Stepping(30, step=20), Stepping(30)
    source = run([late, early])
    assert late.seen == list(range(20, 30))
    assert early.seen == list(range(30))
    assert source.asked == list(range(30))
    assert source.most <= WINDOW + 1


def test_a_lone_member_has_all_threads(threads: int) -> None:
    lone = Stepping(3)
    run([lone])
    assert lone.threads == [threads] * 3


def test_one_at_a_time_on_a_device_that_is_not_the_cpu(threads: int) -> None:
    members = [Stepping(3), Stepping(3)]
    run(members, at_once=1)
    assert members[0].threads == [threads] * 3


@pytest.mark.parametrize("slow", [0.0, 0.003])
def test_an_error_comes_out_and_the_others_stop(threads: int, slow: float) -> None:
    members = [Stepping(500, slow), Stepping(500, slow, fails_at=7)]
    with pytest.raises(ArithmeticError, match="this member"):
        SideBySide(members, Source().read, lambda row: None, 9).run()
    assert members[0].step <= 7 + WINDOW
    assert torch.get_num_threads() == threads


def test_an_error_of_reading_comes_out(threads: int) -> None:
    def read(step: int) -> Batch:
        if step == 5:
            raise OSError("the disk")
        return Batch(torch.tensor(step), None)

    with pytest.raises(OSError, match="the disk"):
        SideBySide([Stepping(9), Stepping(9)], read, lambda row: None, 9).run()
