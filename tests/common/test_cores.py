"""Work shared out over the cores: each part on one thread of torch, whatever the number of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconstruct.common.cores import each_on_one_thread, even, on_one_thread, share


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_each_item_is_done_once_and_on_one_thread_of_torch(threads: int) -> None:
    done = list(each_on_one_thread(lambda item: (item, torch.get_num_threads()), range(20)))
    assert sorted(done) == [(item, 1) for item in range(20)]
    assert on_one_thread(torch.get_num_threads) == 1
    assert torch.get_num_threads() == threads


def test_no_more_are_under_way_than_torch_has_threads(threads: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    for done, _ in enumerate(each_on_one_thread(lambda item: item, items()), 1):
        assert len(taken) <= done + threads


def test_as_many_are_under_way_at_once_as_torch_has_threads(threads: int) -> None:
    together = threading.Barrier(threads)
    list(each_on_one_thread(lambda _: together.wait(timeout=30), range(2 * threads)))


def test_an_error_is_raised_once_what_is_under_way_has_ended(threads: int) -> None:
    ended = []
    other_is_waiting = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            if threads > 1:
                other_is_waiting.wait(timeout=30)
            raise ValueError("the first")
        other_is_waiting.set()
        threading.Event().wait(0.2)
        ended.append(item)

    with pytest.raises(ValueError, match="the first"):
        list(each_on_one_thread(work, range(threads)))
    assert sorted(ended) == list(range(1, threads))


@given(rows=st.integers(1, 50), parts=st.integers(1, 60), threads=st.integers(1, 4))
def test_each_row_is_shared_out_once(rows: int, parts: int, threads: int) -> None:
    seen = np.zeros(rows, int)

    def mark(first: int, last: int, into: np.ndarray) -> None:
        into[first:last] += 1

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        share(mark, rows, seen)
        share(mark, even(rows, parts), seen)
    finally:
        torch.set_num_threads(before)
    assert (seen == 2).all()


def test_an_error_in_a_shared_kernel_is_raised() -> None:
    def fail(first: int, last: int) -> None:
        if first:
            raise ValueError(f"row {first}")

    with pytest.raises(ValueError, match="row"):
        share(fail, [0, 1, 2])
