"""Progress of long work, as one small contract between the library and whoever watches.

A stage says ``with track("activations", total, "tokens") as advance: ... advance(n)``. By default
that draws a tqdm bar with its rate on a terminal, and a line every few seconds elsewhere (in logs,
in CI). A flow can listen as well, to show the same numbers elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from threading import Event, Thread
from typing import Any, Protocol

from tqdm import tqdm

Listener = Callable[[str, int, int], None]
"""Called as ``listener(description, done, total)`` at most once a second or so."""

TICK_SECONDS = 1.0

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


class _Unheard:
    """Standard error, for bars that go on unseen where nobody reads it any more.

    tqdm keeps its lock where drawing fails, and every other bar would wait for that for good.
    """

    def __init__(self) -> None:
        self._file = sys.stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        with suppress(BrokenPipeError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(BrokenPipeError):
            self._file.flush()


class Bar(tqdm):  # type: ignore[misc]
    """A bar that leaves out what a narrow terminal has no room for, and never cuts a number."""

    @property
    def format_dict(self) -> dict[str, Any]:
        """As tqdm's, with as many of the facts as fit, and a shorter form where none does."""
        drawn: dict[str, Any] = super().format_dict
        width, facts = drawn["ncols"], drawn["postfix"].split(", ") if drawn["postfix"] else []
        if not width:
            return drawn
        for form in (None, "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt}", "{percentage:3.0f}%"):
            for kept in range(len(facts) if form is None else 0, -1, -1):
                drawn |= {"postfix": ", ".join(facts[:kept]) or None, "bar_format": form}
                # Of an unknown width, tqdm draws a bar of ten characters; one is enough.
                spare = 9 if form is None else 0
                if len(self.format_meter(**drawn | {"ncols": None})) - spare <= width:
                    return drawn
        return drawn


@contextmanager
def track(description: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Advance]:
    """Show progress of ``total`` units of work, ``done`` of which an earlier attempt finished."""
    on_terminal = sys.stderr.isatty()
    listener = _listener.get()
    with Bar(
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
        file=_Unheard(),
    ) as bar:

        def advance(n: int = 1, **facts: float | str) -> None:
            if facts:
                bar.set_postfix(facts, refresh=False)
            if bar.update(n) and listener is not None:
                listener(description, int(bar.n), total)

        with _ticking(bar) if on_terminal else nullcontext():
            yield advance
        if listener is not None:
            listener(description, total, total)  # also of what stopped early, because it may


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Show on a terminal how long something has gone on that can't tell how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    shown = "{desc}: {elapsed}"
    with (
        tqdm(desc=f"{description:<12}", bar_format=shown, leave=False, file=_Unheard()) as bar,
        _ticking(bar),
    ):
        yield


@contextmanager
def _ticking(bar: Any) -> Iterator[None]:
    """Draw a bar anew each second, also while nothing is told of it: its clock shows life."""
    ended = Event()

    def tick() -> None:
        while not ended.wait(TICK_SECONDS):
            bar.refresh()

    thread = Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
