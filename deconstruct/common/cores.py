"""Work shared out over the cores so that no result depends on how many there are.

A product may round otherwise on several threads of torch than on one, by the processor: so work is
cut into parts of which each is one thread's alone. Kernels take ranges of rows, no two of which
meet; a product is shared out like a kernel, each thread multiplying rows of its own; forward passes
are made side by side, each on one thread.

Plain Python threads, since torch and the kernels let go of the interpreter's lock. torch's own
threads are kept out of a training step also because those of its OpenMP pool spin for up to 15 ms
after each operation, on the cores that the kernels need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def share(kernel: Callable[..., None], rows: int | Sequence[int], *arguments: object) -> None:
    """Call ``kernel(first, last, *arguments)`` on ranges that cover 0 .. rows, in no set order.

    rows: how many, cut evenly, a few ranges per thread; or the cuts themselves, ascending. Even a
    single range goes to a thread on which torch computes alone: a product may round otherwise on
    several.
    """
    threads = torch.get_num_threads()
    cuts = even(rows, 4 * threads) if isinstance(rows, int) else rows
    ranges = list(pairwise(cuts))
    if threads == 1:
        for first, last in ranges:
            kernel(first, last, *arguments)
        return
    waiting = iter(ranges)  # next() on a list's iterator is atomic

    def work() -> None:
        for first, last in waiting:
            kernel(first, last, *arguments)

    workers = [_pool().submit(work) for _ in range(min(threads, len(ranges)))]
    for worker in workers:
        worker.result()


def on_one_thread(work: Callable[[], Result]) -> Result:
    """What ``work`` returns, torch computing on a single thread meanwhile."""
    threads = torch.get_num_threads()
    return work() if threads == 1 else _pool().submit(work).result()


def each_on_one_thread(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``work(item)`` of each, in no set order: as many at once as torch has threads, each on one.

    What ``work`` raises is raised here, once what is under way has ended.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(work, items)
        return
    waiting = iter(items)
    working: set[Future[Result]] = set()
    try:
        for item in waiting:
            working.add(_pool().submit(work, item))
            if len(working) == threads:
                done, working = wait(working, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        yield from (one.result() for one in wait(working).done)
    finally:
        wait(working)


def compute_on(threads: int) -> None:
    """Let torch and the kernels use so many threads for what this thread does from now on."""
    torch.get_num_threads()  # or torch sets this thread's number by itself, later on
    torch.set_num_threads(threads)


def even(rows: int, parts: int) -> list[int]:
    """At most ``parts`` + 1 cuts of 0 .. rows."""
    parts = max(1, min(parts, rows))
    return [rows * part // parts for part in range(parts + 1)]


@cache
def _pool() -> ThreadPoolExecutor:
    """The process' kernel threads, in each of which torch computes on that thread alone.

    As many as there are cores: several callers share them, each using no more of them at once than
    it has threads of torch.
    """
    threads = torch.get_num_threads()
    size = max(threads, os.cpu_count() or 1)
    started = Barrier(size + 1)

    def start() -> None:
        compute_on(1)
        started.wait()

    pool = ThreadPoolExecutor(size, "kernel", start)
    for _ in range(size):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # the number is each thread's own, but new ones take the last
    return pool
