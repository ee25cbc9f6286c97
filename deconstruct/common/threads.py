"""Sums on one thread, so that bytes depend neither on cores nor on what else the process does.

Several threads sum in another order than one. The number of threads that a BLAS takes belongs to
the whole process, and stages run side by side in one: what they compute by numpy, they compute
within these blocks, which share one limit. The thread that enters the first of them should be the
one that leaves the last: OpenBLAS gives its threads back to no other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import threadpool_limits


class _Shared:
    """What ``limit`` does is in force for the process while any thread is in a `block`."""

    def __init__(self, limit: Callable[[], AbstractContextManager[Any]]) -> None:
        self._limit, self._lock, self._inside, self._held = limit, Lock(), 0, ExitStack()

    @contextmanager
    def block(self) -> Iterator[None]:
        with self._lock:
            self._held.enter_context(self._limit())  # anew: others' libraries are there by now
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._held.close()


def import_before_threads() -> None:
    """Import what stages that run side by side would each import by themselves.

    Python breaks a deadlock between threads that import each other's libraries by handing out half
    a module, and the limits below are of the libraries that are there.
    """
    import numba  # noqa: F401
    import openTSNE  # noqa: F401
    import sklearn.decomposition
    import sklearn.feature_extraction.text
    import sklearn.linear_model
    import sklearn.metrics
    import sklearn.model_selection
    import sklearn.neighbors  # noqa: F401


@contextmanager
def _no_warnings_of_limits() -> Iterator[None]:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


_blas = _Shared(lambda: threadpool_limits(1, user_api="blas"))
_quiet = _Shared(_no_warnings_of_limits)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """numpy's products on one thread; torch has threads of its own, which stay."""
    with _blas.block():
        yield


@contextmanager
def one_quiet_thread() -> Iterator[None]:
    """All of scikit-learn on one thread: products this narrow are no faster on two.

    Without its warnings of optimisers that stop at their limit, which help nobody here.
    """
    import scipy.linalg  # noqa: F401 - whose BLAS is not numpy's

    with _quiet.block(), _blas.block(), threadpool_limits(1, user_api="openmp"):  # of this thread
        yield
