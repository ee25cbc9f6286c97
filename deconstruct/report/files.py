"""All figures of a run as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from deconstruct.common.errors import StorageError
from deconstruct.report.chart import ENDINGS, Missing, save, told
from deconstruct.report.drawing import careful
from deconstruct.report.figures import ALL
from deconstruct.store.query import QueryError, resolve_run


class Saved(NamedTuple):
    """A figure and its files; or none, and the sentence why the run has nothing of it."""

    name: str
    files: tuple[Path, ...]
    missing: str = ""


def save_all(
    store: duckdb.DuckDBPyConnection, run: str, folder: Path, endings: Sequence[str] = ENDINGS
) -> list[Saved]:
    """Write each figure that ``run`` has to ``<folder>/<name>.<ending>``, for each of ``endings``:
    svg, png, pdf, csv (the data).

    Raises ``QueryError`` for an unknown run or ending, before any work, and ``StorageError`` if the
    folder can't be written.
    """
    return list(saving(store, run, folder, endings))


def saving(
    store: duckdb.DuckDBPyConnection, run: str, folder: Path, endings: Sequence[str] = ENDINGS
) -> Iterator[Saved]:
    """As `save_all`, one figure after another."""
    run_id = resolve_run(store, run)
    if unknown := [ending for ending in endings if ending not in ENDINGS]:
        raise QueryError(f"ending {unknown[0]!r} is none of {', '.join(ENDINGS)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for make in ALL:
            try:
                chart = careful(make)(store, run_id)
            except Missing as missing:
                yield Saved(make.__name__, (), str(missing))
                continue
            yield Saved(told(chart).name, tuple(save(chart, folder, endings)))
    except OSError as error:
        raise StorageError(
            f"folder {str(folder)!r} can't be written ({error.strerror or error}); name another"
        ) from error
