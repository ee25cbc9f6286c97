"""Progress of long work, as one small contract between the library and whoever watches.

A stage says ``with track("activations", total, "tokens") as advance: ... advance(n)``. By default
that draws a tqdm bar with its rate on a terminal, and a line every few seconds elsewhere (in logs,
in CI). A flow can listen as well, to show the same numbers elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from tqdm import tqdm

Listener = Callable[[str, int, int], None]
"""Called as ``listener(description, done, total)`` at most once a second or so."""

_listener: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)


class Advance(Protocol):
    """Report that ``n`` more units are done; ``facts`` (loss, L0, ...) are shown beside the bar."""

    def __call__(self, n: int = 1, **facts: float | str) -> None: ...


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the progress of everything inside this block to ``listener`` too."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def track(description: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Advance]:
    """Show progress of ``total`` units of work, ``done`` of which an earlier attempt finished."""
    on_terminal = sys.stderr.isatty()
    listener = _listener.get()
    with tqdm(
        total=total,
        initial=done,
        desc=f"{description:<12}",
        unit=f" {unit}",
        unit_scale=total > 10_000,
        mininterval=0.2 if on_terminal else 10.0,
        maxinterval=1.0 if on_terminal else 20.0,
        dynamic_ncols=on_terminal,
        ncols=None if on_terminal else 100,
        ascii=None if on_terminal else " #",
        file=sys.stderr,
    ) as bar:

        def advance(n: int = 1, **facts: float | str) -> None:
            if facts:
                bar.set_postfix(facts, refresh=False)
            if bar.update(n) and listener is not None:
                listener(description, int(bar.n), total)

        yield advance
        if listener is not None:
            listener(description, total, total)  # also of what stopped early, because it may
