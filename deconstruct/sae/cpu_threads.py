"""Kernels on several threads: each takes a range of rows, and no two ranges meet.

Plain Python threads, since the kernels let go of the interpreter's lock: they need no OpenMP
runtime beside the one that torch brings, and they sleep while torch multiplies, where the waiting
threads of a second OpenMP pool spin on the cores that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch


def share(kernel: Callable[..., None], rows: int | Sequence[int], *arguments: object) -> None:
    """Call ``kernel(first, last, *arguments)`` on ranges that cover 0 .. rows, in no set order.

    rows: how many, cut evenly, a few ranges a thread; or the cuts themselves, ascending.
    """
    threads = torch.get_num_threads()
    cuts = even(rows, 4 * threads) if isinstance(rows, int) else rows
    ranges = list(pairwise(cuts))
    if threads == 1 or len(ranges) == 1:
        for first, last in ranges:
            kernel(first, last, *arguments)
        return
    waiting = iter(ranges)  # next() on a list's iterator is atomic

    def work() -> None:
        for first, last in waiting:
            kernel(first, last, *arguments)

    helpers = [_pool(threads - 1).submit(work) for _ in range(min(threads, len(ranges)) - 1)]
    work()
    for helper in helpers:
        helper.result()


def even(rows: int, parts: int) -> list[int]:
    """At most ``parts`` + 1 cuts of 0 .. rows."""
    parts = max(1, min(parts, rows))
    return [rows * part // parts for part in range(parts + 1)]


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, "kernel")
