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

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray


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


def weighted_sum(weights: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``weights @ rows``, [n] and [n, width] -> [width], in one order whatever the number of
    threads: a BLAS cuts the sum itself among them."""
    total = np.zeros(rows.shape[1], np.float32)
    share(_add_columns, even(len(total), 2 * torch.get_num_threads()), weights, rows, total)
    return total


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_columns(
    first: int,
    last: int,
    weights: NDArray[np.float32],
    rows: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    into = total[first:last]
    for r in range(len(rows)):
        weight = weights[r]
        if weight != 0:
            own = rows[r, first:last]
            for j in range(len(into)):
                into[j] += weight * own[j]


def even(rows: int, parts: int) -> list[int]:
    """At most ``parts`` + 1 cuts of 0 .. rows."""
    parts = max(1, min(parts, rows))
    return [rows * part // parts for part in range(parts + 1)]


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, "kernel")
